"""Draw every figure of the package from the demo's embedded models, as PNG.

python scripts/figure_gallery.py OUT
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from matplotlib.figure import Figure

from captum_kd import compare
from captum_kd.attr.gradient_maps import grad_cam
from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES, load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import normalise
from captum_kd.labels import LabelEmbeddings
from captum_kd.report.page import png
from captum_kd.visualization import plot_curves, plot_models

LAYERS = ("layer1", "layer2", "layer3", "layer4")
METHODS = ("Grad-CAM", "Grad-CAM difference", "UniCAM, published objective", "UniCAM, recommended")
SCORED = 128
SHOWN = 3
IMAGES_OF_LAYERS = (1, 2)


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dpi", default=78, show_default=True, help="Resolution of the figures.")
def main(out: Path, dpi: int) -> None:
    """Write the figures to the folder OUT."""
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures():
        path = out / f"{name}.png"
        path.write_bytes(png(figure, dpi))
        click.echo(f"{path}: {path.stat().st_size // 1000} kB")


def figures() -> Iterator[tuple[str, Figure]]:
    """Every figure, with its name."""
    models, planted = load_demo_models(), load_demo_images()
    stages = models.training["stages"]
    curves = {s["name"]: [[epoch["validation_accuracy"] for epoch in s["epochs"]]] for s in stages}
    yield "curves", plot_curves(curves, ylabel="validation accuracy")[0]

    images, labels = normalise(planted.images), planted.labels
    rest = slice(SCORED, None)
    comparison = compare(
        {"student": models.student, "teacher as student": models.teacher},
        models.base,
        list(LAYERS),
        [(images[:SCORED], labels[:SCORED])],
        label_embeddings=LabelEmbeddings.one_hot(FASHION_MNIST_CLASSES),
        methods=METHODS,
        reference=(images[rest], labels[rest]),
        shown=SHOWN,
        progress=False,
    )
    yield "scores", comparison.plot_scores(students=["student"])[0]
    yield "scores_students", comparison.plot_scores(quantities=["RS student", "RS distilled"])[0]
    yield "methods", comparison.plot_maps("layer3", "student")[0]
    yield "models", comparison.plot_models("Grad-CAM", "layer3")[0]
    chosen = {"students": ["student"], "images": IMAGES_OF_LAYERS}
    for method, name in (("UniCAM, recommended", "unicam"), ("Grad-CAM", "grad_cam")):
        yield f"layers_{name}", comparison.plot_layers(method, **chosen)[0]
    yield "layers_students", comparison.plot_layers("UniCAM, recommended", images=[1])[0]
    yield "kept", comparison.plot_kept("UniCAM, recommended", LAYERS[1:], **chosen)[0]

    shown, predicted = images[:SHOWN], {}
    for name in ("teacher", "base", "student"):
        model = getattr(models, name)
        predicted[name] = grad_cam(model, model.layer3, shown, model(shown).argmax(1))
    titles = [FASHION_MNIST_CLASSES[i] for i in labels[:SHOWN].tolist()]
    yield (
        "teacher_base_student",
        plot_models(shown, predicted, opacity=0.6, row_titles=titles, title="Grad-CAM, layer3")[0],
    )


if __name__ == "__main__":
    main()

"""UniCAM inside Captum's own tools; where one cannot take it as it is, the lines that make it work."""

from __future__ import annotations

import matplotlib
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor

from captum_kd import UniCAM
from tests.networks import classes, images, pair

matplotlib.use("Agg")


def unicam() -> UniCAM:
    student, base = pair()
    return UniCAM(student, student.second_relu, base)


def test_it_is_a_layer_attribution() -> None:
    assert isinstance(unicam(), LayerAttribution)
    assert not unicam().has_convergence_delta()


def test_interpolate() -> None:
    maps = unicam().attribute(images(), classes())
    upsampled = LayerAttribution.interpolate(maps, (12, 12), interpolate_mode="bilinear")
    assert upsampled.shape == (12, 1, 12, 12)
    assert upsampled.max() > 0


def test_visualize_image_attr_multiple() -> None:
    maps = LayerAttribution.interpolate(unicam().attribute(images(), classes()), (12, 12))
    # Captum refuses a map that is zero everywhere: pick the sample with the largest one.
    index = maps.flatten(1).amax(1).argmax()
    heat_map, image = maps[index].permute(1, 2, 0).numpy(), images()[index].permute(1, 2, 0)
    image = ((image - image.min()) / (image.max() - image.min())).numpy()
    figure, axes = viz.visualize_image_attr_multiple(
        heat_map,
        image,
        methods=["original_image", "heat_map"],
        signs=["all", "positive"],
        use_pyplot=False,
    )
    assert len(axes) == 2
    figure, _ = viz.visualize_image_attr(heat_map, image, "blended_heat_map", "positive", use_pyplot=False)
    assert figure is not None


def test_noise_tunnel_without_noise_repeats_the_reference_map() -> None:
    student, base = pair()
    method = UniCAM(student, student.second_relu, base, reference=(images(20, seed=7), classes(20)))
    quiet = NoiseTunnel(method).attribute(
        images(), nt_type="smoothgrad", nt_samples=3, stdevs=0.0, target=classes()
    )
    torch.testing.assert_close(quiet, method.attribute(images(), classes()), rtol=1e-4, atol=1e-6)
    torch.manual_seed(0)
    noisy = NoiseTunnel(method).attribute(images(), nt_samples=3, stdevs=0.5, target=classes())
    assert noisy.shape == quiet.shape
    assert not torch.allclose(noisy, quiet)


def test_noise_tunnel_on_the_batch() -> None:
    smoothed = NoiseTunnel(unicam()).attribute(images(), nt_samples=2, stdevs=0.1, target=classes())
    assert smoothed.shape == (12, 1, 8, 8)


def test_sensitivity_max_through_a_tuple() -> None:
    """It hands over tuples with noisy copies of each sample, and wants tuples back."""
    student, base = pair()
    method = UniCAM(student, student.second_relu, base, reference=(images(20, seed=7), classes(20)))

    def explanation(inputs: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        return (method.attribute(inputs[0], target),)

    torch.manual_seed(0)
    options = {"target": classes(), "n_perturb_samples": 2}
    none = sensitivity_max(explanation, images(), perturb_radius=0.0, **options)
    torch.testing.assert_close(none, torch.zeros(12), atol=1e-4, rtol=0)
    some = sensitivity_max(explanation, images(), perturb_radius=0.3, **options)
    assert some.shape == (12,)
    assert some.max() > 1e-3


def test_infidelity_of_interpolated_maps() -> None:
    student, base = pair()
    maps = UniCAM(student, student.second_relu, base).attribute(images(), classes())
    upsampled = LayerAttribution.interpolate(maps, (12, 12)).expand(-1, 3, -1, -1)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    torch.manual_seed(0)
    score = infidelity(student, perturb, images(), upsampled, target=classes())
    assert score.shape == (12,)
    assert (score > 0).all()
    with pytest.raises((AssertionError, RuntimeError)):
        infidelity(student, perturb, images(), maps, target=classes())

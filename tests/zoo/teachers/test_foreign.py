"""Teachers made by other tools: wrapped, exported, quantised, scripted; functions; and what cannot be a teacher."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zoo.data.image_set import ImageSet
from zoo.errors import ModelError
from zoo.models.facts import facts_of
from zoo.models.making import create_model
from zoo.models.network import preprocessing_of
from zoo.models.preprocessing import Preprocessing
from zoo.teachers.foreign import assumption_of_file
from zoo.teachers.opening import open_teacher
from zoo.teachers.torch_module import TorchTeacher

INDICES = torch.arange(3)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Three images of different shapes."""
    random = np.random.default_rng(0)
    return ImageSet(list("abc"), [random.integers(0, 256, (h, 50, 3), dtype=np.uint8) for h in (40, 50, 60)])


@pytest.fixture(scope="module")
def views() -> Tensor:
    """Three views, uint8 (3, 3, 32, 32)."""
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def zoo_model() -> nn.Module:
    """A network whose preprocessing and metric are none of the defaults."""
    torch.manual_seed(0)
    model = create_model("test_resnet", 8, image_size=32, crop_pct=0.9, metric="euclidean").eval()
    model.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    return model


class Mine(nn.Module):
    """A wrapper of one's own; ``before`` and ``after`` are applied to input and output."""

    def __init__(self, net: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.backbone = net
        self.before, self.after = before or (lambda x: x), after or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.after(self.backbone(self.before(x)))
        return found


class SmallNet(nn.Module):
    """A network that says nothing of its input."""

    def __init__(self, channels: int = 3, dim: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, dim)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.conv(x)).mean((2, 3)))
        return found


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "ModelEmaV2": ModelEmaV2,
    "ModelEmaV3": ModelEmaV3,
    "compiled": torch.compile,
    "Sequential": lambda net: nn.Sequential(net),
    "Sequential with Identity": lambda net: nn.Sequential(nn.Identity(), net),
    "nested": lambda net: nn.DataParallel(nn.Sequential(AveragedModel(net))),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_are_followed(
    kind: str, zoo_model: nn.Module, images: ImageSet, views: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    plain = TorchTeacher(zoo_model)
    wrapped = WRAPPERS[kind](zoo_model)
    teacher = open_teacher(wrapped)
    assert isinstance(teacher, TorchTeacher)
    assert (teacher.preprocessing, teacher.metric) == (plain.preprocessing, "euclidean")
    assert (teacher.digest, teacher.parameters()) == (plain.digest, plain.parameters())
    np.testing.assert_array_equal(teacher.embed_images(images), plain.embed_images(images))
    assert len(teacher.embed_views_with_maps(views, INDICES, images)[1]) == 5
    assert (preprocessing_of(wrapped), facts_of(wrapped).metric) == (plain.preprocessing, "euclidean")
    assert teacher.notes == () and not caplog.text


INSIDE: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "one's own": (Mine, ""),
    "normalised after": (lambda net: Mine(net, after=lambda y: nn.functional.normalize(y)), ""),
    "followed by a layer": (lambda net: nn.Sequential(net, nn.Linear(8, 4)), "compared as those of the network in it"),
    "two of the same": (
        lambda net: Mine(net, after=lambda y: torch.cat([y, net(y.new_ones(1, 3, 32, 32))], 1)),
        "as th",
    ),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_timm_network_inside_is_asked_where_it_is_given_the_same_input(
    kind: str, zoo_model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    make, said = INSIDE[kind]
    teacher = TorchTeacher(make(zoo_model))
    assert (teacher.preprocessing, teacher.metric) == (preprocessing_of(zoo_model), "euclidean")
    assert (not caplog.text and not teacher.notes) if not said else (said in caplog.text and said in teacher.notes[0])


def test_what_is_assumed_is_said(zoo_model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    own_normalisation = Mine(zoo_model, before=lambda x: (x - 0.5) / 0.2)
    traced = torch.jit.trace(zoo_model, torch.zeros(1, 3, 32, 32))
    for module in (own_normalisation, traced, SmallNet()):
        caplog.clear()
        teacher = TorchTeacher(module)
        assert (teacher.preprocessing, teacher.metric) == (Preprocessing(), "cosine")
        (note,) = teacher.notes
        assert "Assumed: 224 x 224 pixels, ImageNet's mean and deviation" in note and "cosine distance" in note
        assert f"teacher {teacher.name}: {note}" in caplog.text
    assert TorchTeacher(SmallNet(), Preprocessing(), "cosine").notes == ()
    told = open_teacher(zoo_model, cache=None)
    assert told.notes == ()


def test_assumptions_reach_a_cached_teacher(tmp_path: Path) -> None:
    assert "Assumed" in open_teacher(SmallNet(), cache=tmp_path).notes[0]


def exported(batch: int | None, side: int = 24) -> Any:
    torch.manual_seed(1)
    shapes = None if batch else {"x": {0: torch.export.Dim("n", min=1, max=512)}}
    return torch.export.export(SmallNet().eval(), (torch.zeros(batch or 2, 3, side, side),), dynamic_shapes=shapes)


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_an_exported_program(batch: int | None, images: ImageSet, views: Tensor) -> None:
    torch.manual_seed(1)
    expected = TorchTeacher(SmallNet(), Preprocessing((24, 24)))
    for program in (exported(batch), exported(batch).module()):
        teacher = open_teacher(program)
        assert (teacher.input_size, teacher.parameters()) == ((24, 24), expected.parameters())
        np.testing.assert_allclose(teacher.embed_images(images), expected.embed_images(images), atol=1e-5)
        found = teacher.embed_views(views, INDICES, images)
        torch.testing.assert_close(found, expected.embed_views(views, INDICES, images), atol=1e-5, rtol=0)
        assert "24 x 24 pixels" in teacher.notes[0]
    assert open_teacher(exported(batch)).digest == teacher.digest
    changed = exported(batch)
    with torch.no_grad():
        changed.state_dict["head.bias"].add_(1)
    assert open_teacher(changed).digest != teacher.digest


def test_a_function(images: ImageSet, views: Tensor) -> None:
    net = SmallNet().eval()

    def mine(x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = net(x)
        return found

    teacher, expected = open_teacher(mine), TorchTeacher(net)
    assert (teacher.name, teacher.parameters(), teacher.metric) == ("mine", 0, "cosine")
    np.testing.assert_allclose(teacher.embed_images(images), expected.embed_images(images), atol=1e-6)
    torch.testing.assert_close(
        teacher.embed_views(views, INDICES, images), expected.embed_views(views, INDICES, images)
    )
    assert open_teacher(mine).digest == teacher.digest
    with torch.no_grad():
        net.head.bias.add_(1)
    assert open_teacher(mine).digest != teacher.digest


def quantised() -> nn.Module:
    torch.manual_seed(2)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)


def test_a_quantised_network(images: ImageSet) -> None:
    teacher = open_teacher(quantised())
    assert teacher.embed_images(images).shape == (3, 6)
    assert teacher.digest == open_teacher(quantised()).digest
    changed = quantised()
    changed[2].set_weight_bias(changed[2].weight(), torch.ones(6))  # type: ignore[index,operator]
    assert teacher.digest != open_teacher(changed).digest


class Extra(SmallNet):
    """A network with state that is no tensor."""

    extra: Any = None

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def test_extra_state_is_part_of_the_digest(images: ImageSet) -> None:
    torch.manual_seed(0)
    net = Extra()
    digests = []
    for extra in (None, 1, "a", b"a", {"scale": torch.ones(2)}, {"scale": torch.zeros(2)}, [np.float64(2)], {3}):
        net.extra = extra
        digests.append(open_teacher(net).digest)
        assert digests[-1] == open_teacher(copy.deepcopy(net)).digest
    assert len(set(digests)) == 8
    assert open_teacher(net).embed_images(images).shape == (3, 5)


def test_a_frozen_script_is_called_as_it_is(images: ImageSet) -> None:
    net = SmallNet().eval()
    script = torch.jit.freeze(torch.jit.trace(net, torch.zeros(1, 3, 24, 24)))
    found = TorchTeacher(script, Preprocessing((24, 24))).embed_images(images)
    np.testing.assert_allclose(found, TorchTeacher(net, Preprocessing((24, 24))).embed_images(images), atol=1e-5)


def test_parameters_without_values_are_named() -> None:
    with pytest.raises(ModelError, match=r"Sequential has a parameter without values, 1\.weight: .*lazy module"):
        open_teacher(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)))
    with torch.device("meta"):
        net = SmallNet()
    with pytest.raises(ModelError, match=r"SmallNet has a parameter without values, conv\.weight: .*meta device"):
        open_teacher(net)


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_of_other_channels_are_named(channels: int, images: ImageSet, views: Tensor) -> None:
    for net in (SmallNet(channels), timm.create_model("test_resnet", in_chans=channels, num_classes=0)):
        teacher = open_teacher(net)
        with pytest.raises(ModelError, match=rf"takes {channels} channels, and images have 3, RGB") as error:
            teacher.embed_images(images)
        assert "\n" not in str(error.value)
        with pytest.raises(ModelError, match=rf"takes {channels} channels"):
            teacher.embed_views(views, INDICES, images)


def test_what_a_module_raises_is_told_in_a_line(images: ImageSet, views: Tensor) -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("it\nbreaks")

    teacher = open_teacher(broken)
    for use in (lambda: teacher.embed_images(images), lambda: teacher.embed_views(views, INDICES, images)):
        with pytest.raises(ModelError, match=r"failed on a batch of shape \(3, 3, 224, 224\)") as error:
            use()
        assert "\n" not in str(error.value)


def test_logits_of_a_classifier_are_told(zoo_model: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    classifier = timm.create_model("test_resnet")
    for net in (
        classifier,
        nn.DataParallel(classifier),
        SmallNet(dim=1000),
        lambda x: x.mean((2, 3)).repeat(1, 400)[:, :1000],
    ):
        caplog.clear()
        teacher = open_teacher(net)
        assert "gives 1,000 numbers, as a classifier of ImageNet does" in teacher.notes[-1]
        assert "num_classes=0" in caplog.text
    for net in (timm.create_model("test_resnet", num_classes=0), zoo_model, SmallNet(dim=999)):
        assert not any("classifier" in note for note in open_teacher(net).notes)


@pytest.mark.parametrize(
    ("takes_bytes", "normal", "example"),
    [
        (False, "ImageNet's mean and deviation", "mean=0.5,std=0.5,resize=squash"),
        (True, "bytes, which", "resize=squash"),
    ],
)
def test_what_is_assumed_of_a_file_names_what_to_write_after_it(takes_bytes: bool, normal: str, example: str) -> None:
    note = assumption_of_file("a.tflite", Preprocessing((32, 48), 0.9), "cosine", takes_bytes)
    assert f"Assumed: 32 x 48 pixels, {normal}" in note and " and cosine distance. " in note
    assert note.endswith(f"If this is wrong, add what is right to the name, such as a.tflite#{example}.")

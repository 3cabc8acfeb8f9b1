"""Any two architectures have stages to pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressor.feature_maps import pair_stages, to_smaller
from zoo.models.making import create_model
from zoo.models.network import embed_with_maps


def maps(*shapes: tuple[int, int, int]) -> list[Tensor]:
    return [torch.full((2, *shape), float(number)) for number, shape in enumerate(shapes)]


def numbers(chosen: list[Tensor]) -> list[int]:
    return [int(map_[0, 0, 0, 0]) for map_ in chosen]


STAGES = maps((64, 24, 24), (64, 12, 12), (128, 6, 6), (256, 3, 3), (512, 2, 2))
BLOCKS = maps(*[(192, 4, 4)] * 12)


@pytest.mark.parametrize(
    ("student", "teacher", "of_student", "of_teacher"),
    [
        (STAGES, STAGES, [1, 2, 3, 4], [1, 2, 3, 4]),
        (STAGES[2:], STAGES, [0, 1, 2], [2, 3, 4]),
        (BLOCKS, STAGES, [2, 5, 8, 11], [1, 2, 3, 4]),
        (STAGES[2:], BLOCKS, [0, 1, 2], [3, 7, 11]),
        (BLOCKS[:6], BLOCKS, [0, 2, 3, 5], [2, 5, 8, 11]),
        (BLOCKS[:2], STAGES, [0, 1], [3, 4]),
        # Maps of one shape in a row are one stage, which ends with the last of them.
        (maps((8, 4, 4), (8, 4, 4), (16, 2, 2), (16, 2, 2), (16, 2, 2)), STAGES, [1, 4], [3, 4]),
        (STAGES[:1], STAGES, [0], [4]),
    ],
)
def test_stages_are_paired_from_the_last_on(
    student: list[Tensor], teacher: list[Tensor], of_student: list[int], of_teacher: list[int]
) -> None:
    base = numbers(student)[0]
    chosen = pair_stages(student, teacher)
    assert [number - base for number in numbers(chosen[0])] == of_student
    assert numbers(chosen[1]) == of_teacher


def test_fewer_stages_on_demand() -> None:
    assert [numbers(chosen) for chosen in pair_stages(BLOCKS, STAGES, most=2)] == [[5, 11], [3, 4]]


def test_stages_of_real_networks() -> None:
    torch.manual_seed(0)
    networks = [
        create_model(arch, 4, image_size=64) for arch in ("mobilenetv4_conv_small_050", "test_vit", "resnet10t")
    ]
    small, transformer, resnet = (embed_with_maps(net.eval(), torch.zeros(1, 3, 64, 64))[1] for net in networks)
    student, teacher = pair_stages(small, resnet)
    assert [tuple(map_.shape[1:]) for map_ in teacher] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert [map_.shape[2:] for map_ in student] == [map_.shape[2:] for map_ in teacher]
    student, teacher = pair_stages(transformer, resnet)
    assert [tuple(map_.shape[1:]) for map_ in student] == [(64, 4, 4)] * 4
    assert student[-1] is transformer[-1] and teacher[-1] is resnet[-1]


def test_the_smaller_height_and_width() -> None:
    student, teacher = torch.arange(8.0).view(1, 1, 4, 2), torch.arange(6.0).view(1, 1, 2, 3)
    small, other = to_smaller(student, teacher)
    torch.testing.assert_close(small, torch.tensor([[[[1.0, 2.0], [5.0, 6.0]]]]))
    torch.testing.assert_close(other, torch.tensor([[[[0.5, 1.5], [3.5, 4.5]]]]))  # parts that overlap

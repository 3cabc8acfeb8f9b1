"""The baseline of distillation: the student's network trained on the labels alone."""

from __future__ import annotations

from typing import Any


def as_labels_only(student: dict[str, Any], teacher: dict[str, Any]) -> dict[str, Any]:
    """Return options that train the student's network on labels alone, with its own schedule and the teacher's loss."""
    network, training = ("arch", "dim", "pool", "image_size", "crop_pct"), ("augment", "min_crop", "epochs", "lr")
    from_student = (*network, *training, "precision", "compile")
    from_teacher = ("proxy_lr_factor", "rotate_classes", "images_per_class")
    options = {name: student[name] for name in from_student if name in student}
    options |= {name: teacher[name] for name in from_teacher if name in teacher}
    # The same number of steps per epoch; only distillation has several views of an image in each.
    options["batch_size"] = student.get("batch_size", 90)
    options["validate_every"] = student.get("validate_every", 1)
    return options

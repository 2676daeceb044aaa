"""segment-anything's own mask generator on a small model, with stand-ins for the four functions of torchvision that it
imports. Run in a process of its own: ``python sam_generator_reference.py WEIGHTS IMAGE.npy OUT.npz MIN_AREA``."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    kept: list[int] = []
    for index in torch.argsort(scores, descending=True, stable=True).tolist():
        left, top = (torch.maximum(boxes[index][k], boxes[kept][:, k]) for k in (0, 1))
        right, bottom = (torch.minimum(boxes[index][k], boxes[kept][:, k]) for k in (2, 3))
        shared = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
        union = box_area(boxes[index][None]) + box_area(boxes[kept]) - shared
        if not (shared > iou_threshold * union).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long)


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size[::-1], Image.Resampling.BILINEAR)


def stand_in() -> None:
    for name in ("", ".ops", ".ops.boxes", ".transforms", ".transforms.functional"):
        module = ModuleType(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
    vars(sys.modules["torchvision.ops.boxes"]).update(batched_nms=batched_nms, box_area=box_area)
    vars(sys.modules["torchvision.transforms.functional"]).update(resize=resize, to_pil_image=Image.fromarray)


def main(weights: str, image: str, out: str, min_area: str) -> None:
    from grape_reward.keypoints.sam_model import load_sam
    from grape_reward.keypoints.testing import with_blobs

    model = with_blobs(load_sam(Path(weights)))
    stand_in()
    from segment_anything import SamAutomaticMaskGenerator

    generator = SamAutomaticMaskGenerator(
        model,
        points_per_side=6,
        points_per_batch=8,
        pred_iou_thresh=0.4,
        stability_score_thresh=0.5,
        stability_score_offset=1.0,
        box_nms_thresh=0.6,
        min_mask_region_area=int(min_area),
    )
    found = generator.generate(np.load(image))
    regions = np.array([one["segmentation"] for one in found]).reshape(len(found), *np.load(image).shape[:2])
    np.savez(out, regions=regions, scores=[one["predicted_iou"] for one in found])


if __name__ == "__main__":
    main(*sys.argv[1:])

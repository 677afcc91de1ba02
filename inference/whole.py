"""The animated head, put back into the photo that it came from.

    behind = (1 - e) photo + e plate
    moved  = (1 - b) behind + b carried
    out    = (1 - a) moved + a generated

a: the head as the network shows it: its opacity, above the neck, falling to 0 towards the edge of the crop.
b: the photo's own head, hair beyond the crop included, carried along as a flat picture would be (`carried_by`).
e: what both have left: there the plate is seen, the photo without its head, filled from around it.

Where nothing moves b carries every pixel onto itself and e is 0, so the photo keeps its own edges. Shoulders and
background never move. So that the head turns on its neck, and not about its nose, the crop's camera slides until the
neck stands where the photo has it (`anchored`).

Before another background the person is cut out by a matte, with colours that do not hold the old background; the plate
is the new one. A transparent one is black, and all layers have their share as a fourth channel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from conventions.cameras import label_angles_rad, project_points
from inference.background import PHOTO, Background, with_alpha
from inference.network import Expressive, Rendered
from inference.photo import Box, Photo, Whole
from tracking.matte import refined

NECK = np.array([[0.0, -0.2, -0.02]])  # world: the joint that a head turns on
CHIN = np.array([[0.0, -0.19, 0.2]])  # world: of the mean face
HAIR = np.array(
    [[-0.15, 0.1, 0.03], [0.15, 0.1, 0.03], [0.0, 0.3, 0.03]]
)  # world: the plane of a head's outline
NECK_FADE = 0.13  # crop's widths from below the chin, over which the head ends
NECK_HALF_WIDTH = 0.17  # crop's widths
SHOULDER_SLOPE = 0.9  # how much higher the head ends, one width farther out than the neck
EDGE_FADE = 0.1  # crop's widths from its edge, over which the head ends
AROUND = (0.45, 0.6, 0.45, 0.1)  # crop's widths left, above, right, below, where hair may be
LEFT_GAIN = 6.0  # a place is uncovered where the head's share around it changed by 1 / LEFT_GAIN
_SIDE = 192  # of weights, which are soft: their pixels over the stage's longer side
_REACH = 0.04  # of the stage: as far as an edge of hair reaches
_OWN_COLOUR = (
    0.7,
    0.95,
)  # of a matte: below the first a colour is the background's, above the second the person's
_NECK_BEHIND = (0.5, 0.9)  # of what is filled from around, likewise
_OPAQUE = (0.3, 0.9)  # of the generated head's share, likewise

# picture uint8 [H, W, 3] -> share of each pixel that shows the person, float32 [H, W]: `tracking.matte.Matte`
Matting = Callable[[np.ndarray], np.ndarray]


def _seen(points: np.ndarray, label: np.ndarray) -> np.ndarray:
    return project_points(points, np.asarray(label, np.float64))


def anchored(label: np.ndarray, source: np.ndarray) -> np.ndarray:
    """A camera label [25] with its principal point moved so that the neck is seen where `source` [25] sees it."""
    shift = _seen(NECK, source) - _seen(NECK, label)
    moved = np.array(label, np.float32)
    moved[[18, 21]] += shift[0].astype(np.float32)
    return moved


def carried_by(label: np.ndarray, source: np.ndarray) -> np.ndarray:
    """How the outline of a head moves from one camera's picture to the other's: float64 [2, 3], in crop's widths."""
    before, after = (_seen(HAIR, x) for x in (source, label))
    return np.asarray(np.linalg.solve(np.c_[before, np.ones(3)], after).T)


class Scene:
    """A picture whose head can be replaced by a rendered one, frame after frame.

    camera: the picture's own [25]. own: the head as the network shows it from there, with the picture's expression.
    """

    def __init__(
        self,
        whole: Whole,
        camera: np.ndarray,
        own: Rendered,
        matte: Matting,
        background: Background = PHOTO,
    ) -> None:
        self.whole, self.camera, self._matte = whole, camera, matte
        self._is_cut = background.kind in ("picture", "transparent")
        self._shown = whole.image  # uint8 [H, W, 3 or 4], where there is no head
        left, top, right, bottom = AROUND
        self._stage = whole.pixels((-left, -top, 1 + right, 1 + bottom))
        self._crop = whole.pixels((0, 0, 1, 1))
        x0, y0, x1, y1 = self._stage
        self._place = whole.place(*self._stage)
        photo = whole.image[y0:y1, x0:x1]
        # [h, w, 3 or 4] over the stage: what is seen, what is carried, what is behind
        self._photo = self._carry = self._plate = photo.astype(np.float32)
        person_full = self._cut_out(background) if self._is_cut else None
        if self.is_empty:
            return
        share = min(1.0, _SIDE / max(photo.shape[:2]))
        self._small = max(2, round((x1 - x0) * share)), max(2, round((y1 - y0) * share))  # w, h
        self._opacity = self._over_stage(own, camera)
        person = _sized(matte(photo), *self._small)
        opaque = self._over_stage(own)
        self._holds_background = self._is_opaque_beside(person, opaque)
        if not self._holds_background:
            person = np.maximum(person, opaque)
        above = head_weight(camera, self._place, *self._small)
        reach = 2 * max(1, round(_SIDE * _REACH)) + 1
        self._head = ndimage.gaussian_filter(person * above, 0.7)
        self._around = ndimage.grey_dilation(person, size=reach) * above
        gone = ndimage.grey_dilation(person, size=reach + 2) * above
        self._head_full = self._full(self._head)
        known = 1 - np.clip(1.5 * self._full(gone), 0, 1)
        if person_full is None:
            self._plate = filled(self._photo, known)
        else:
            self._head_full = person_full * self._full(above)
            # behind the chin is the neck, which is filled from around it as in the photo
            filled_share = filled(np.repeat(person_full[..., None], 3, -1), known)[..., :1]
            share = _ramp(filled_share, *_NECK_BEHIND)
            neck = filled(self._carry[..., :3], known)
            neck = _opaque(neck) if self._carry.shape[2] == 4 else neck
            self._plate = neck * share + self._plate * (1 - share)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the crop lies in the picture."""
        x0, y0, x1, y1 = self._crop
        return x0 >= x1 or y0 >= y1

    def compose(self, frame: Rendered, label: np.ndarray) -> np.ndarray:
        """The picture uint8 [H, W, 3 or 4] with the head of `frame`, rendered from the anchored `label` [25]."""
        out = self._shown.copy()
        if self.is_empty:
            return out
        x0, y0, x1, y1 = self._stage
        carried, share = self._carried(carried_by(label, self.camera))
        moved = _sized(share, *self._small) - self._head
        shown = self._over_stage(frame, label)
        changed = np.maximum(np.abs(moved), np.abs(shown - self._opacity))
        changed = ndimage.gaussian_filter(changed, _SIDE * _REACH / 2)
        left = self._full(np.clip(LEFT_GAIN * changed, 0, 1) * self._around)[..., None]
        mixed = self._photo * (1 - left) + self._plate * left
        mixed += (carried - mixed) * share[..., None]
        cx0, cy0, cx1, cy1 = self._crop
        inner = mixed[cy0 - y0 : cy1 - y0, cx0 - x0 : cx1 - x0]
        generated, a = self._generated(frame, label)
        inner += (generated - inner) * a[..., None]
        if out.shape[2] == 4:
            out[y0:y1, x0:x1] = with_alpha(mixed[..., :3], mixed[..., 3])
        else:
            out[y0:y1, x0:x1] = np.round(mixed).clip(0, 255).astype(np.uint8)
        return out

    def _cut_out(self, background: Background) -> np.ndarray:
        """Put the person before another background; the person's share over the stage, float32 [h, w]."""
        image = self.whole.image
        x0, y0, x1, y1 = self._stage
        person = refined(self._matte(image), image)
        if not self.is_empty:  # the closer look is the sharper one
            close = refined(self._matte(image[y0:y1, x0:x1]), image[y0:y1, x0:x1])
            weight = (
                edge_weight(y1 - y0)[:, (y1 - y0) // 2, None] * edge_weight(x1 - x0)[(x1 - x0) // 2]
            )
            person[y0:y1, x0:x1] += weight * (close - person[y0:y1, x0:x1])
        height, width = person.shape
        colours = filled(image.astype(np.float32), _ramp(person, *_OWN_COLOUR))
        if background.kind == "transparent":
            colours = _opaque(colours)
            behind = np.zeros((height, width, 4), np.float32)
        else:
            behind = background.behind(width, height).astype(np.float32)
        share = person[..., None]
        shown = colours * share + behind * (1 - share)
        self._photo, self._carry, self._plate = (
            layer[y0:y1, x0:x1] for layer in (shown, colours, behind)
        )
        if background.kind == "transparent":
            self._shown = with_alpha(shown[..., :3], shown[..., 3])
        else:
            self._shown = np.round(shown).clip(0, 255).astype(np.uint8)
        return person[y0:y1, x0:x1]

    def _is_opaque_beside(self, person: np.ndarray, opacity: np.ndarray) -> bool:
        """Whether the network's volume shows the background, too: then its opacity is no matte of the head."""
        left, top, right, bottom = self._place
        width, height = self._small
        u = left + (np.arange(width) + 0.5) / width * (right - left)
        v = (top + (np.arange(height) + 0.5) / height * (bottom - top))[:, None]
        beside = (person < 0.1) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
        return bool(beside.any()) and float(opacity[beside].mean()) > 0.5

    def _carried(self, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The photo's own head moved by `affine`, float32 [h, w, 3] and its share [h, w], over the stage."""
        size = self.whole.transform.size
        into = np.vstack(
            [self.whole.transform.matrix / size, [0, 0, 1]]
        )  # picture -> crop's widths
        x0, y0, x1, y1 = self._stage
        into = into @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
        back = np.linalg.inv(into) @ np.linalg.inv(np.vstack([affine, [0, 0, 1]])) @ into
        if np.abs(back - np.eye(3)).max() < 1e-4:
            return self._carry, self._head_full
        layers = [*np.moveaxis(self._carry, -1, 0), self._head_full]
        coefficients = tuple(back[:2].ravel())
        moved = [
            Image.fromarray(layer).transform(
                (x1 - x0, y1 - y0), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
            )
            for layer in layers
        ]
        *colours, share = (np.asarray(m) for m in moved)
        return np.stack(colours, -1), np.clip(share, 0, 1)

    def _generated(self, frame: Rendered, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The network's picture, float32 [h, w, 3], and the head's share in it [h, w], over the crop's pixels."""
        x0, y0, x1, y1 = self._crop
        left, top, right, bottom = (min(max(v, 0.0), 1.0) for v in self.whole.place(*self._crop))
        size = len(frame.image)
        part = (left * size, top * size, right * size, bottom * size)
        shown = Image.fromarray(frame.image).resize(
            (x1 - x0, y1 - y0), Image.Resampling.LANCZOS, part
        )
        head = _sized(head_share(frame, label), x1 - x0, y1 - y0, (left, top, right, bottom))
        if self._holds_background:
            person = self._matte(frame.image)
            head = head * _sized(person, x1 - x0, y1 - y0, (left, top, right, bottom))
        if self._is_cut:
            head = _ramp(head, *_OPAQUE)
        colours = np.asarray(shown, np.float32)
        return (_opaque(colours) if self._photo.shape[2] == 4 else colours), head

    def _over_stage(self, frame: Rendered, label: np.ndarray | None = None) -> np.ndarray:
        """Opacity over the stage, [h, w] of `_small`; with `label` that of the head alone."""
        values = np.clip(frame.opacity, 0, 1) if label is None else head_share(frame, label)
        left, top, right, bottom = self._place
        width, height = self._small
        side = len(values)
        v = (top + (np.arange(height) + 0.5) / height * (bottom - top)) * side - 0.5
        u = (left + (np.arange(width) + 0.5) / width * (right - left)) * side - 0.5
        at = np.meshgrid(v, u, indexing="ij")
        return np.asarray(ndimage.map_coordinates(values, at, order=1, mode="constant"))

    def _full(self, values: np.ndarray) -> np.ndarray:
        x0, y0, x1, y1 = self._stage
        return _sized(values, x1 - x0, y1 - y0)


def scene_of(
    photo: Photo, head: Expressive, matte: Matting, background: Background = PHOTO
) -> Scene:
    """The scene of a photo; `head` is the photo's."""
    own = head.frame(photo.beta, photo.camera)
    return Scene(photo.whole, photo.camera, own, matte, background)


def head_share(frame: Rendered, label: np.ndarray) -> np.ndarray:
    """How far each place of the crop shows the head, float32 [h, h]: opacity above the neck, 0 at the crop's edge."""
    side = len(frame.opacity)
    weight = head_weight(label, (0, 0, 1, 1), side, side) * edge_weight(side)
    return np.asarray(np.clip(frame.opacity, 0, 1) * weight, np.float32)


def head_weight(label: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    """1 on the head, falling to 0 over the neck, above the shoulders: float32 [height, width] over `box`.

    The line runs below the chin, square to the head's own height, and rises beside the neck.
    """
    chin, neck = (_seen(p, label)[0] for p in (CHIN, NECK))
    roll = float(label_angles_rad(label)[2])
    left, top, right, bottom = box
    x, y = np.meshgrid(
        left + (np.arange(width) + 0.5) / width * (right - left) - neck[0],
        top + (np.arange(height) + 0.5) / height * (bottom - top) - chin[1],
    )
    across = x * np.cos(roll) - y * np.sin(roll)
    down = x * np.sin(roll) + y * np.cos(roll)
    beside = np.maximum(0, np.abs(across) - NECK_HALF_WIDTH)
    return _smooth(1 - (down + SHOULDER_SLOPE * beside) / NECK_FADE)


def edge_weight(side: int) -> np.ndarray:
    """1 inside the crop, falling to 0 at its edge, float32 [side, side]."""
    at = np.arange(side) / (side - 1)
    from_edge = _smooth(np.minimum(at, 1 - at) / EDGE_FADE)
    return np.asarray(from_edge[:, None] * from_edge)


def filled(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """float32 [h, w, 3] where `known` [h, w] is 1, else what lies around: by halving until all is known."""
    height, width = known.shape
    if min(height, width) < 2 or known.min() >= 1:
        return image
    tall, wide = height + height % 2, width + width % 2
    pad = ((0, tall - height), (0, wide - width))
    weight = np.pad(known, pad)[..., None]
    sums = (np.pad(image, (*pad, (0, 0))) * weight).reshape(tall // 2, 2, wide // 2, 2, 3)
    count = weight.reshape(tall // 2, 2, wide // 2, 2, 1).sum((1, 3))
    coarse = sums.sum((1, 3)) / np.maximum(count, 1e-6)
    coarse = filled(coarse.astype(np.float32), np.clip(count[..., 0], 0, 1).astype(np.float32))
    fine = np.stack([_sized(coarse[..., c], wide, tall) for c in range(3)], -1)[:height, :width]
    return np.asarray(image * known[..., None] + fine * (1 - known[..., None]), np.float32)


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    return _smooth((values - low) / (high - low))


def _opaque(colours: np.ndarray) -> np.ndarray:
    """[h, w, 3] -> [h, w, 4] with a share of 255."""
    return np.concatenate([colours, np.full((*colours.shape[:2], 1), 255, np.float32)], axis=-1)


def _smooth(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def _sized(
    values: np.ndarray,  # float [h, w]
    width: int,
    height: int,
    box: Box = (0, 0, 1, 1),  # the part that is taken, in widths and heights
) -> np.ndarray:
    h, w = values.shape
    part = (box[0] * w, box[1] * h, box[2] * w, box[3] * h)
    shown = Image.fromarray(np.asarray(values, np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR, box=part
    )
    return np.asarray(shown)

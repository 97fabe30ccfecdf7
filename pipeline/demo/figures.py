"""How somebody looks in one moment: a person in one pose, as shaded shapes on a canvas of twice the picture's size.

In:      a brush (canvas, camera colours, side of the light), a person, a pose and a place.   Out: shapes on the canvas.
Source:  ours. A body is a few joints in three dimensions (across the body, along the walk, up), turned by the heading and
         projected. Lengths are parts of the body's height; angles are radians; a heading of 0 walks towards the camera, pi/2 to
         the right, pi away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipeline.demo.people import Colour, Person

Point = tuple[float, float]

STRIPS = (-1.0, -0.72, -0.38, 0.0, 0.38, 0.72, 1.0)
"""Edges across the torso, in half widths, between which the shade is constant."""


@dataclass(frozen=True, slots=True)
class Pose:
    """One moment of a walk."""

    phase: float
    heading: float
    pitch: float
    """How far the camera looks down: sinks what is nearer by this part of its distance."""


class Brush:
    """Filled shapes on a canvas of four plain channels: red, green, blue and coverage, 0 where nothing was drawn.

    Colours are drawn with full coverage over zeros, so that averaging pixels afterwards gives colours multiplied by their
    coverage: no dark seam around a person. Pillow averages 'RGBA' otherwise, so the canvas has mode 'CMYK', four channels
    without a meaning.
    """

    def __init__(self, width: int, height: int, tint: Callable[[Colour], Colour], light: float) -> None:
        """A canvas of `width` x `height` pixels; `tint` turns a real colour into the camera's, `light` (-1..1) is its side."""
        self.image = Image.new("CMYK", (width, height))
        self.light = light
        self._draw = ImageDraw.Draw(self.image)
        self._tint = tint
        self._inks: dict[tuple[Colour, float], tuple[int, int, int, int]] = {}

    def clear(self) -> None:
        """Back to an empty canvas."""
        self.image.paste((0, 0, 0, 0), (0, 0, *self.image.size))

    def ink(self, colour: Colour, shade: float) -> tuple[int, int, int, int]:
        """Camera colour of a surface lit by `shade` (1: as in the palette)."""
        key = (colour, shade)
        if key not in self._inks:
            r, g, b = self._tint(colour)
            self._inks[key] = (min(255, int(r * shade)), min(255, int(g * shade)), min(255, int(b * shade)), 255)
        return self._inks[key]

    def polygon(self, points: Sequence[Point], colour: Colour, shade: float = 1.0) -> None:
        """One filled polygon."""
        self._draw.polygon(points, fill=self.ink(colour, shade))

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, shade: float = 1.0) -> None:
        """One filled ellipse around (x, y)."""
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=self.ink(colour, shade))

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: int) -> None:
        """Darkness without a colour: black that covers only in part (`strength` of 255)."""
        self._draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(0, 0, 0, strength))

    def limb(self, a: Point, b: Point, ra: float, rb: float, colour: Colour, shade: float = 1.0) -> None:
        """A rounded tapering tube from `a` to `b` (radii `ra`, `rb`), darker at its edges and lighter towards the light."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length, dx / length
        if nx < 0:
            nx, ny = -nx, -ny
        dark = self.ink(colour, shade * 0.76)
        ellipse, polygon = self._draw.ellipse, self._draw.polygon
        ellipse((a[0] - ra, a[1] - ra, a[0] + ra, a[1] + ra), fill=dark)
        ellipse((b[0] - rb, b[1] - rb, b[0] + rb, b[1] + rb), fill=dark)
        for width, offset, tone in ((1.0, 0.0, 0.76), (0.74, 0.16, 0.9), (0.40, 0.34, 1.04)):
            o, fill = offset * self.light, self.ink(colour, shade * tone)
            la, lb, wa, wb = o * ra, o * rb, width * ra, width * rb
            polygon(
                (
                    (a[0] + nx * (la - wa), a[1] + ny * (la - wa)),
                    (a[0] + nx * (la + wa), a[1] + ny * (la + wa)),
                    (b[0] + nx * (lb + wb), b[1] + ny * (lb + wb)),
                    (b[0] + nx * (lb - wb), b[1] + ny * (lb - wb)),
                ),
                fill=fill,
            )


class _Trunk:
    """The torso as a sheet: u across (-1..1), v down (0 shoulder, 1 hem), onto the picture."""

    def __init__(self, shoulder: Point, hip: Point, widths: tuple[float, float, float], hem: float) -> None:
        self.shoulder, self.hip, self.widths, self.hem = shoulder, hip, widths, hem

    def at(self, u: float, v: float) -> Point:
        v *= self.hem
        top, waist, bottom = self.widths
        half = top + (waist - top) * v * 2 if v < 0.5 else waist + (bottom - waist) * (v * 2 - 1)
        x = self.shoulder[0] + (self.hip[0] - self.shoulder[0]) * v
        drop = 0.07 * abs(u) ** 3 * (1 - v)  # shoulders slope
        return x + u * half, self.shoulder[1] + (self.hip[1] - self.shoulder[1]) * (v + drop)

    def sheet(self, u0: float, u1: float, v0: float, v1: float) -> list[Point]:
        if v0 < 0.5 < v1:
            return [self.at(u0, v0), self.at(u1, v0), self.at(u1, 0.5), self.at(u1, v1), self.at(u0, v1), self.at(u0, 0.5)]
        return [self.at(u0, v0), self.at(u1, v0), self.at(u1, v1), self.at(u0, v1)]


def draw_person(brush: Brush, person: Person, pose: Pose, x: float, ground: float, height: float) -> None:
    """Draw one person.

    Args:
        brush: canvas and camera colours.
        person: who.
        pose: phase of the walk (radians), heading and camera pitch.
        x, ground: canvas pixels of the point between the feet.
        height: canvas pixels of a person whose `height` is 1.
    """
    h = height * person.height
    across, along = math.cos(pose.heading), math.sin(pose.heading)
    facing = across  # > 0: the face is seen, < 0: the back

    def place(side: float, forward: float, up: float) -> Point:
        """Body coordinates (parts of the height) onto the canvas; `side` > 0 is the person's left."""
        return x + h * (side * across + forward * along), ground - h * (up - forward * across * pose.pitch)

    hip_up = person.legs
    feet = [_leg(person, pose.phase + shift, hip_up) for shift in (0.0, math.pi)]
    sink = min(leg[2][1] for leg in feet)  # the lower foot stands on the ground
    hip_up -= sink - 0.035
    half_hip, half_shoulder = 0.066 * person.build, 0.112 * (0.55 + 0.45 * person.build)
    shoulder_up, lean = hip_up + 0.325, person.lean
    # Seen from the side a body is as wide as it is deep.
    wide = math.hypot(across, 0.62 * along)
    legs = [(side, [(f, u - sink + 0.035) for f, u in joints]) for side, joints in zip((1, -1), feet, strict=True)]
    arms = [(1, pose.phase + math.pi), (-1, pose.phase)]
    near = 1 if along < 0 else -1  # the side of the body that is nearer when it walks across the picture
    legs.sort(key=lambda leg: leg[0] == near)
    brush.shadow(x + 0.03 * h * brush.light, ground - 0.005 * h, 0.17 * h, 0.022 * h, 95)

    for side, joints in legs:
        _draw_leg(brush, person, [place(side * half_hip * 0.8, f, u) for f, u in joints], h, along, 1.0 if side == near else 0.82)

    def arm(side: int, phase: float) -> None:
        swing = person.swing * math.sin(phase)
        elbow = swing + person.elbow * (0.8 + 0.4 * max(0.0, math.sin(phase)))
        sx = side * (half_shoulder + 0.002)
        a = (lean, shoulder_up - 0.034)
        b = (a[0] + 0.165 * math.sin(swing), a[1] - 0.165 * math.cos(swing))
        c = (b[0] + 0.15 * math.sin(elbow), b[1] - 0.15 * math.cos(elbow))
        shade = 1.0 if side == near or abs(along) < 0.4 else 0.8
        p, q, r = place(sx, *a), place(sx * 1.16, *b), place(sx * 1.14, *c)
        thick = 0.032 * h * (0.5 + 0.5 * person.build)
        long = person.sleeves == "long"
        brush.limb(q, r, thick * 0.85, thick * 0.68, person.top if long else person.skin, shade)
        brush.oval(r[0], r[1] + 0.012 * h, 0.020 * h, 0.025 * h, person.skin, shade * 0.92)
        brush.limb(p, q, thick * 1.08, thick * 0.92, person.top, shade)
        if person.bag == "tote" and side == 1:
            _draw_tote(brush, person, r, h, wide)

    def back() -> None:
        if person.bag == "backpack":
            u, v = place(0.0, -0.095, shoulder_up - 0.16)
            rx, ry = h * (0.085 * abs(across) + 0.055 * abs(along)), 0.115 * h
            points = [(u + rx * sx, v + ry * sy) for sx, sy in ((-1, -0.7), (-0.6, -1), (0.6, -1), (1, -0.7), (1, 0.9), (-1, 0.9))]
            brush.polygon(points, person.bag_colour, 0.82)
            brush.polygon([(u + (px - u) * 0.72, v + (py - v) * 0.72) for px, py in points], person.bag_colour, 1.02)
            brush.polygon([(u + (px - u) * 0.55, v + ry * 0.45 + (py - v) * 0.28) for px, py in points], person.bag_colour, 0.7)

    ordered = sorted(arms, key=lambda a: a[0] == near)
    if facing > 0:
        back()
    arm(*ordered[0])
    hem = 1.0 if person.bottom_kind == "skirt" else 1.1
    trunk = _Trunk(
        place(0.0, lean, shoulder_up),
        place(0.0, 0.0, hip_up),
        (h * half_shoulder * (0.35 + 0.65 * wide) * 1.06, h * 0.090 * person.build * wide, h * 0.094 * person.build * wide),
        hem,
    )
    _draw_bottom(brush, person, place(0.0, 0.0, hip_up), h, wide, person.stride * abs(math.sin(pose.phase)) * abs(along))
    _draw_top(brush, person, trunk, facing)
    if person.bag == "satchel":
        _draw_satchel(brush, person, trunk, facing, h)
    if person.bag == "backpack" and facing > 0:
        for u in (-0.62, 0.62):
            brush.polygon(trunk.sheet(u - 0.1, u + 0.1, 0.0, 0.42), person.bag_colour, 0.9)
    arm(*ordered[1])
    if facing <= 0:
        back()
    _draw_head(brush, person, place(0.0, lean * 1.4 + 0.012, shoulder_up), h, across, along)


def _leg(person: Person, phase: float, hip_up: float) -> list[tuple[float, float]]:
    """Hip, knee, ankle and toe as (forward, up) at one phase; the ankle of a straight leg is at up = 0.035."""
    thigh = person.stride * math.sin(phase) + 0.06
    knee = 0.12 + 0.85 * person.stride * 2 * max(0.0, math.cos(phase)) ** 1.5 * 0.75
    shank = thigh - knee
    upper, lower = hip_up * 0.49, hip_up * 0.44
    kf, ku = upper * math.sin(thigh), hip_up - upper * math.cos(thigh)
    af, au = kf + lower * math.sin(shank), ku - lower * math.cos(shank)
    foot = 0.35 * min(0.0, shank)
    return [(0.0, hip_up), (kf, ku), (af, au), (af + 0.075 * math.cos(foot), au - 0.018 + 0.075 * math.sin(foot))]


def _draw_leg(brush: Brush, person: Person, joints: list[Point], h: float, along: float, shade: float) -> None:
    hip, knee, ankle, toe = joints
    thick = h * 0.051 * (0.45 + 0.55 * person.build)
    bare = person.bottom_kind != "trousers"
    sole = 0.020 * h
    brush.limb(
        (ankle[0], ankle[1] + 0.012 * h), (toe[0], toe[1] + (0.012 if abs(along) < 0.4 else 0.0) * h), sole, sole * 0.8, person.shoes, shade
    )
    brush.limb(knee, ankle, thick * 0.72, thick * (0.42 if bare else 0.60), person.skin if bare else person.bottom, shade)
    brush.limb(
        hip, knee, thick * 1.15, thick * (0.72 if bare else 0.82), person.skin if person.bottom_kind == "skirt" else person.bottom, shade
    )
    if person.bottom_kind == "shorts":
        brush.limb(hip, (knee[0] * 0.9 + hip[0] * 0.1, knee[1] * 0.9 + hip[1] * 0.1), thick * 1.15, thick * 0.98, person.bottom, shade)


def _draw_bottom(brush: Brush, person: Person, hip: Point, h: float, wide: float, spread: float) -> None:
    """The seat of trousers, or a skirt that opens with the step."""
    half = h * 0.093 * person.build * wide
    low = 0.19 if person.bottom_kind == "skirt" else 0.035
    flare = half * (1.25 + 0.5 * spread) if person.bottom_kind == "skirt" else half * 0.95
    top, bottom = hip[1] - 0.05 * h, hip[1] + low * h
    for u0, u1 in itertools.pairwise(STRIPS):
        shade = _round(brush.light, (u0 + u1) / 2)
        points = [(hip[0] + u0 * half, top), (hip[0] + u1 * half, top), (hip[0] + u1 * flare, bottom), (hip[0] + u0 * flare, bottom)]
        brush.polygon(points, person.bottom, shade)


def _round(light: float, u: float) -> float:
    """Shade of a cylinder at u (-1..1 across), in steps that keep the number of inks small."""
    return round(0.74 + 0.32 * math.sqrt(max(0.0, 1 - (u - 0.35 * light) ** 2)), 2)


def _draw_top(brush: Brush, person: Person, trunk: _Trunk, facing: float) -> None:
    for index, (u0, u1) in enumerate(itertools.pairwise(STRIPS)):
        shade = _round(brush.light, (u0 + u1) / 2)
        base = person.accent if person.pattern == "bars" and index % 2 else person.top
        brush.polygon(trunk.sheet(u0, u1, 0.0, 1.0), base, shade)
        if person.pattern == "hoops":
            for row in range(4):
                brush.polygon(trunk.sheet(u0, u1, 0.12 + row * 0.24, 0.22 + row * 0.24), person.accent, shade)
        elif person.pattern == "checks":
            for row in range(index % 2, 6, 2):
                brush.polygon(trunk.sheet(u0, u1, row / 6, (row + 1) / 6), person.accent, shade)
        elif person.pattern == "yoke":
            brush.polygon(trunk.sheet(u0, u1, 0.0, 0.4), person.accent, shade)
    if person.pattern == "print" and abs(facing) > 0.3:
        brush.polygon(trunk.sheet(-0.5, 0.5, 0.2, 0.55), person.accent, 1.0)
        brush.polygon(trunk.sheet(-0.22, 0.22, 0.28, 0.46), person.top, 0.9)


def _draw_satchel(brush: Brush, person: Person, trunk: _Trunk, facing: float, h: float) -> None:
    side = 0.85 if facing > 0 else -0.85
    (x0, y0), (x1, y1) = trunk.at(-side * 0.7, 0.02), trunk.at(side, 0.92)
    w = 0.011 * h
    brush.polygon([(x0 - w, y0), (x0 + w, y0), (x1 + w, y1), (x1 - w, y1)], person.bag_colour, 0.8)
    x1 += 0.02 * h * (1 if side > 0 else -1)
    brush.polygon(
        [(x1 - 0.055 * h, y1 - 0.01 * h), (x1 + 0.055 * h, y1 - 0.01 * h), (x1 + 0.06 * h, y1 + 0.09 * h), (x1 - 0.06 * h, y1 + 0.09 * h)],
        person.bag_colour,
        0.8,
    )
    brush.polygon(
        [(x1 - 0.045 * h, y1), (x1 + 0.045 * h, y1), (x1 + 0.05 * h, y1 + 0.04 * h), (x1 - 0.05 * h, y1 + 0.04 * h)],
        person.bag_colour,
        1.05,
    )


def _draw_tote(brush: Brush, person: Person, hand: Point, h: float, wide: float) -> None:
    x, y, half = hand[0], hand[1] + 0.015 * h, 0.062 * h * (0.5 + 0.5 * wide)
    for sign in (-1, 1):
        brush.limb((x, y), (x + sign * half * 0.6, y + 0.07 * h), 0.006 * h, 0.006 * h, person.bag_colour, 0.9)
    brush.polygon(
        [(x - half, y + 0.065 * h), (x + half, y + 0.065 * h), (x + half * 0.9, y + 0.20 * h), (x - half * 0.9, y + 0.20 * h)],
        person.bag_colour,
        0.82,
    )
    brush.polygon(
        [(x - half * 0.75, y + 0.08 * h), (x + half * 0.8, y + 0.08 * h), (x + half * 0.7, y + 0.17 * h), (x - half * 0.65, y + 0.17 * h)],
        person.bag_colour,
        1.04,
    )


def _draw_head(brush: Brush, person: Person, neck: Point, h: float, across: float, along: float) -> None:
    x, y = neck[0] + 0.006 * h * along, neck[1] - 0.085 * h
    rx, ry = 0.049 * h, 0.065 * h
    hair, back = person.hair_colour, across < -0.15
    brush.limb((neck[0], neck[1] + 0.008 * h), (x, y + ry * 0.5), 0.027 * h, 0.025 * h, person.skin, 0.82)
    if person.hair == "long" and not back:
        brush.oval(x - 0.018 * h * along, y + 0.03 * h, rx * 1.22, ry * 1.45, hair, 0.8)
    if person.hair == "bun":
        brush.oval(x - 0.052 * h * along, y - 0.035 * h, 0.026 * h, 0.026 * h, hair, 0.9)
    brush.oval(x, y, rx, ry, person.skin, 0.84)
    brush.oval(x + rx * 0.14 * brush.light, y, rx * 0.82, ry * 0.9, person.skin, 1.0)
    if back:
        brush.oval(x, y - 0.004 * h, rx * 1.06, ry * 1.0, hair, 0.85)
        brush.oval(x + rx * 0.2 * brush.light, y - 0.012 * h, rx * 0.7, ry * 0.7, hair, 0.97)
        if person.hair == "long":
            brush.limb((x, y), (x, y + 0.12 * h), rx * 1.12, rx * 1.0, hair, 1.05)
    else:
        # Hair grows over the top of the head and, seen from the side, over its back.
        brush.polygon(
            [
                (x - rx * 1.06, y - ry * 0.18),
                (x - rx * 0.9, y - ry * 0.72),
                (x - rx * 0.4, y - ry * 1.05),
                (x + rx * 0.4, y - ry * 1.05),
                (x + rx * 0.9, y - ry * 0.72),
                (x + rx * 1.06, y - ry * 0.18),
                (x + rx * (0.7 - 0.1 * along), y - ry * 0.42),
                (x - rx * (0.7 + 0.1 * along), y - ry * 0.42),
            ],
            hair,
            0.95,
        )
        if abs(along) > 0.3:
            side = math.copysign(1.05, along) - 0.45 * along
            brush.oval(x - rx * side, y - ry * 0.25, rx * 0.72 * abs(along), ry * 0.70, hair, 0.9)
        if person.hair == "long":
            for sign in (-1, 1) if abs(along) < 0.5 else (-math.copysign(1, along),):
                brush.limb((x + sign * rx * 0.95, y - ry * 0.2), (x + sign * rx * 1.05, y + ry * 1.5), rx * 0.28, rx * 0.34, hair, 0.95)
        for sign in (-1, 1):
            eye = x + rx * (0.38 * sign * across + 0.62 * along)
            if abs(eye - x) < rx * 0.85:
                brush.oval(eye, y - ry * 0.02, rx * 0.12, ry * 0.05, person.skin, 0.5)
        brush.oval(x + rx * 0.6 * along, y + ry * 0.52, rx * 0.26, ry * 0.06, person.skin, 0.68)
    if person.hair == "cap":
        brush.polygon(
            [
                (x - rx * 1.1, y - ry * 0.3),
                (x - rx * 0.85, y - ry * 0.95),
                (x, y - ry * 1.18),
                (x + rx * 0.85, y - ry * 0.95),
                (x + rx * 1.1, y - ry * 0.3),
            ],
            person.accent,
            0.95,
        )
        if not back:
            peak = x + rx * 0.75 * along
            brush.oval(peak, y - ry * 0.32, rx * 0.95, ry * 0.14, person.accent, 0.72)

"""The colours of a report: one name each, for light and for dark pages.

Hues are those of Okabe and Ito, which stay apart for colour-blind readers, darkened for a white
page and lightened for a black one. A figure is drawn in the light colours; on a page each becomes
`var(--name)`, so that the reader's scheme decides. All light colours differ: they are the key.
"""

LIGHT = {
    "ink": "#1c2128",
    "muted": "#59636e",
    "grid": "#dfe3e8",
    "surface": "#ffffff",
    "policy": "#0067ad",
    "control": "#c25a00",
    "base": "#6e7781",
    "proposed": "#c3cad3",
    "generate": "#0072b2",
    "score": "#56b4e9",
    "select": "#009e73",
    "train": "#d55e00",
    "checkpoint": "#cc79a7",
    "check": "#9aa0a6",
    "evaluate": "#e3b505",
    "other": "#7f5fa8",
    "series1": "#0b6fb8",
    "series2": "#bf5b04",
    "series3": "#00876a",
    "series4": "#a8438a",
    "series5": "#7a5cc9",
    "series6": "#8a6d00",
    "series7": "#b8323a",
    "series8": "#3d7f98",
    "ramp1": "#ccd8e4",
    "ramp2": "#97b6d2",
    "ramp3": "#5c91be",
    "ramp4": "#266da6",
    "ramp5": "#00406c",
}

DARK = {
    "ink": "#e6e9ed",
    "muted": "#a3adb8",
    "grid": "#343b45",
    "surface": "#1b2027",
    "policy": "#62b5f5",
    "control": "#ff9f4a",
    "base": "#9ba6b2",
    "proposed": "#4b5562",
    "generate": "#4ba3dd",
    "score": "#8fd0f7",
    "select": "#2fc79b",
    "train": "#f08a45",
    "checkpoint": "#e3a3c6",
    "check": "#767f8a",
    "evaluate": "#f0cc3d",
    "other": "#ad92d1",
    "series1": "#6ab9f7",
    "series2": "#ffa352",
    "series3": "#35cc9f",
    "series4": "#e79acb",
    "series5": "#b39bf0",
    "series6": "#e2c044",
    "series7": "#ff8f8a",
    "series8": "#7fc6de",
    "ramp1": "#33414f",
    "ramp2": "#3d617f",
    "ramp3": "#4f8ab5",
    "ramp4": "#79b6e6",
    "ramp5": "#c5e3ff",
}

_ARM_COLOURS = {"proposal": "base", "plain": "control", "exact": "policy"}

SERIES = tuple(LIGHT[f"series{k}"] for k in range(1, 9))
"""Light colours that tell eight runs apart."""

RAMP = tuple(LIGHT[f"ramp{k}"] for k in range(1, 6))
"""Light colours from weak to strong."""

ARM_ORDER = ("policy", "control", "proposal", "plain", "exact")
"""Arms in the order of every legend and table; others follow by name."""

STAGES = ("generate", "score", "select", "train", "checkpoint", "check", "evaluate")
"""Stages of a round in the order of time; others follow by name."""


def arm_colour(arm: str) -> str:
    """Returns the light colour of an arm.

    >>> arm_colour("policy") == LIGHT["policy"]
    True
    """
    return LIGHT.get(_ARM_COLOURS.get(arm, arm), LIGHT["other"])


def in_order(names: set[str], first: tuple[str, ...]) -> list[str]:
    """Sorts names: those of `first` in its order, then the others by name.

    >>> in_order({"b", "control", "policy"}, ARM_ORDER)
    ['policy', 'control', 'b']
    """
    return [name for name in first if name in names] + sorted(names - set(first))

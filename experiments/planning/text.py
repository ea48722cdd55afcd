"""A plan as text, or as a line of JSON."""

import json
from typing import Any

from .machine import GIB


def show(report: dict[str, Any], as_json: bool) -> None:
    """Prints the plan for one topology."""
    if as_json:
        print(json.dumps(report), flush=True)
        return
    mesh = " x ".join(f"{name} {size}" for name, size in report.get("mesh", {}).items())
    print(f"{report['topology']}: {report['devices']} devices, mesh {mesh or '-'}")
    for program in report.get("programs", []):
        print(f"  {program['name']}: {program['total'] / GIB:.2f} GiB a device "
              f"(compiled in {program['compile_seconds']:.0f} s)")  # fmt: skip
        for kind, size in program["memory"].items():
            print(f"    {kind:<26}{size / GIB:8.2f} GiB")
        print(f"    {program['flops']:.3g} FLOPs, {program['traffic'] / GIB:.1f} GiB of memory "
              f"traffic, {program['sent'] / GIB:.1f} GiB sent, a device")  # fmt: skip
        if counted := program["compiler"]:
            flops, size = counted.get("flops", 0), counted.get("bytes", 0) / GIB
            print(f"    the compiler counts {flops:.3g} FLOPs and {size:.1f} GiB of traffic a "
                  "device, the body of a loop once")  # fmt: skip
        for kind, found in program["network"].items():
            print(f"    {kind:<20}{found.times:6d} times in the text, {found.bytes / GIB:.3f} GiB")
        if program["seconds"]:
            bound = max(program["seconds"], key=program["seconds"].get)
            times = ", ".join(f"{name} {s * 1e3:.3g}" for name, s in program["seconds"].items())
            print(f"    at best, in ms: {times}; bound by {bound}")
    if report.get("suggestions"):
        meshes = "; ".join(_as_argument(sizes) for sizes in report["suggestions"])
        print(f"  by the sizes of its arrays it fits with, best first: {meshes}")
    if report.get("round"):
        parts = ", ".join(f"{name} {s:.3g} s" for name, s in report["round"].items())
        print(f"  a wave of prompts, at best: {parts}")
    room = f" of {report['memory'] / GIB:.0f} GiB a device" if report.get("memory") else ""
    verdict = "fits" if report["fits"] else "does not fit"
    print(
        f"  {verdict}{room}" + (f": {report['reason']}" if "reason" in report else ""), flush=True
    )


def _as_argument(sizes: dict[str, int]) -> str:
    return ",".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "data=1"

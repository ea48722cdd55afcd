"""rsft plan MODEL [--topology v5e:4x8]: says what a round would need on a TPU slice."""

from ..terminal.errors import ExitCode
from ..terminal.parser import Parser


def command(arguments: list[str]) -> ExitCode:
    """Compiles a round for each topology and prints what it takes."""
    parser = Parser(
        prog="rsft plan",
        description="compile a round for a machine that is not here, and say whether it fits",
    )
    parser.add_argument("model", help="a published shape, such as llama-3.1-8b or qwen2.5-7b")
    parser.add_argument(
        "--topology",
        default="local",
        help="v5e, v5p or v6e for the smallest slice that holds it, v5e:4x8 for one slice, local "
        "for this machine; several with commas (default: local)",
    )
    parser.add_argument("--mesh", metavar="fsdp=8,tensor=4", help="default: chosen by memory")
    parser.add_argument("--part", choices=("all", "lora"), default="all")
    parser.add_argument(
        "--params-dtype",
        choices=("float32", "checkpoint"),
        default="float32",
        help="checkpoint: what is not trained stays in bfloat16, as in files (with --part lora)",
    )
    optimizers = ("adafactor", "adamw", "lion", "sgd")
    parser.add_argument("--optimizer", choices=optimizers, default="adamw")
    sizes = {
        "rows": (1, "training sequences a device"),
        "length": (2048, "tokens of a training sequence"),
        "candidates": (16, "completions of a prompt"),
        "prompts": (1, "prompts decoded at once, a device"),
        "prompt-length": (512, "tokens of a prompt"),
        "new-tokens": (1024, "tokens of a completion"),
    }
    for name, (value, text) in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value})")
    parser.add_argument("--json", action="store_true", help="one JSON object a topology")
    parsed = parser.parse_args(arguments)
    import jax

    from ..planning.plan import plan

    if parsed.topology != "local":
        jax.config.update("jax_platforms", "cpu")  # the compiler for a TPU, without looking for one
    return plan(parsed)

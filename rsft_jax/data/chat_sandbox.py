"""The sandbox that chat templates run in: what a template may use, and what it pays for it.

Jinja's immutable sandbox keeps a template away from Python's attributes, and alone would let it
allocate or loop without end (`"x" * 10**10`, a string doubled in a loop). Here steps, and the size
of what each step makes, are spent from a budget; when it or the time is used up, rendering stops.

Jinja takes 50 ms to import, so `rsft_jax.data.chat` imports this module with the first template.
"""

import functools
import json
import threading
import time
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
import jinja2.visitor
from jinja2 import nodes

MAX_SECONDS = 2.0  # of processor time
# Steps plus characters. ChatML spends 10 for each character of a chat.
_BUDGET = 1 << 20
_BUDGET_PER_CHARACTER = 64
_MAX_INTEGER_BITS = 256

# What a template may call. Methods and filters whose result can be far longer than their
# arguments (`center`, `format`, `zfill`, `indent`, ...) are missing on purpose.
_STR_METHODS = frozenset(
    """capitalize count endswith find index isalnum isalpha isdigit islower isnumeric isspace
    istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex
    rpartition rsplit rstrip split splitlines startswith strip swapcase title upper""".split()  # noqa: SIM905
)
_CONTAINER_METHODS = frozenset(("count", "get", "index", "items", "keys", "values"))
_FILTERS = frozenset(
    """abs capitalize count d default dictsort e escape first float int items join last length list
    lower map max min reject rejectattr replace reverse round safe select selectattr sort string
    title trim unique upper""".split()  # noqa: SIM905
)
# Their result is a part of what they are given, or the same things in a new list: no text of it is
# longer than what has been paid for, so they pay for the list alone. A template asks for
# `messages | length` in every turn; paying for the whole chat each time is quadratic in the turns.
_REARRANGING = frozenset("count d default first last length list reverse sort".split())  # noqa: SIM905
_MAX_SEPARATOR = 8  # characters, of `tojson`


class Budget(threading.local):
    """What a rendering may still spend, counted for each thread on its own."""

    def __init__(self) -> None:
        self.fill(0)

    def fill(self, characters: int) -> None:
        """Starts a rendering of messages with so many characters."""
        self.left = _BUDGET + _BUDGET_PER_CHARACTER * characters
        self.deadline = time.thread_time() + MAX_SECONDS

    def spend(self, cost: int) -> None:
        """Pays for one step."""
        self.left -= 1 + cost
        if self.left < 0:
            raise ValueError("it makes more text or takes more steps than a chat needs")
        if time.thread_time() > self.deadline:
            raise ValueError(f"it takes longer than {MAX_SECONDS:g} s")

    def spend_on(self, value: Any) -> Any:
        """Pays for a value, its parts included as often as they occur, and returns it.

        A list that holds another one twice is paid for twice, because printing or comparing it
        takes as long: nothing whose text is longer than the budget can come into being.
        """
        if isinstance(value, dict):
            self.spend(len(value))
            for key, item in value.items():
                self.spend_on(key)
                self.spend_on(item)
        elif isinstance(value, (list, tuple)):
            self.spend(len(value))
            for item in value:
                self.spend_on(item)
        elif isinstance(value, (str, bytes)):
            self.spend(len(value))
        elif isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
            raise ValueError(f"it makes an integer of more than {_MAX_INTEGER_BITS} bits")
        elif type(value).__name__ == "Namespace":
            raise ValueError("a namespace cannot be used as a value")
        return value

    def spend_on_outside(self, value: Any) -> Any:
        """Pays for a value without its parts, which are paid for already, and returns it."""
        if isinstance(value, (str, bytes, list, tuple, dict)):
            self.spend(len(value))
            return value
        return self.spend_on(value)


def compile_template(source: str, budget: Budget) -> Any:
    """Compiles a template in which loops, calls, operators and outputs spend from a budget.

    Raises:
      ValueError: the template cannot be parsed.
    """

    def spend(cost: int) -> str:
        budget.spend(cost)
        return ""

    environment = _Environment(
        budget,
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # folding constants would compute before any budget is set
        extensions=[jinja2.ext.loopcontrols, _Generation],
    )
    for name in list(environment.filters):
        if name not in _FILTERS:
            del environment.filters[name]
    environment.filters |= {
        name: _guarded(name, function, budget) for name, function in environment.filters.items()
    }
    environment.filters |= {
        "_paid": budget.spend_on,
        "_paid_outside": budget.spend_on_outside,
        "_spend": spend,
        "tojson": functools.partial(_to_json, budget),
    }
    keep = ("range", "dict", "namespace")
    environment.globals = {name: environment.globals[name] for name in keep}
    environment.globals["raise_exception"] = _raise_exception
    try:
        tree = _Meter().visit(environment.parse(source))
        tree.set_environment(environment)
        for node in tree.find_all(nodes.Node):
            node.lineno = node.lineno or 1
        code = environment.compile(tree)
        return environment.template_class.from_code(environment, code, environment.globals)
    except (jinja2.TemplateError, RecursionError, ValueError) as error:
        raise ValueError(f"the chat template cannot be read: {error}") from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`, which mark what the assistant says.

    Transformers makes masks of them. Here completions are apart from prompts, and what is between
    is text; names that are set between end there, as in transformers.
    """

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with what is allowed listed, and with a price on everything."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, budget: Budget, **options: Any) -> None:
        self._budget = budget
        super().__init__(**options)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and not isinstance(left, (int, float))):
            raise ValueError(f"the operator {operator} is not allowed here")
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, bytes, list, tuple)) and isinstance(times, int):
                    self._budget.spend(len(value) * max(times, 0))
        # Operands exist already, so a sum is at most twice as large as what was paid for.
        return self._budget.spend_on(super().call_binop(context, operator, left, right))

    # Jinja would hand out its own `format`, which pads to any width.
    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, str) and attribute not in _STR_METHODS:
            return self.unsafe_undefined(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, str) and not isinstance(argument, (int, slice)):
            return self.unsafe_undefined(obj, str(argument))
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STR_METHODS
        if isinstance(obj, (list, tuple, dict)):
            return attr in _CONTAINER_METHODS
        if obj is None or isinstance(obj, (int, float, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        __self._budget.spend(len(owner) if isinstance(owner, str) else 0)
        if isinstance(owner, str) and name == "replace" and len(args) >= 2:
            __self._budget.spend(_replaced_size(owner, str(args[0]), str(args[1])))
        if isinstance(owner, str) and name == "join" and args:
            args = (list(args[0]), *args[1:])
            __self._budget.spend(sum(len(str(item)) + len(owner) for item in args[0]))
        result = super().call(__context, __obj, *args, **kwargs)
        return result if name == "Namespace" else __self._budget.spend_on(result)


class _Meter(jinja2.visitor.NodeTransformer):
    """Adds the spending where the sandbox has no hook for it."""

    def visit_Concat(self, node: Any) -> Any:
        self.generic_visit(node)
        parts = [nodes.Filter(part, "string", [], [], None, None) for part in node.nodes]
        return functools.reduce(nodes.Add, parts)

    def visit_Getitem(self, node: Any) -> Any:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return nodes.Filter(node, "_paid_outside", [], [], None, None)

    def visit_List(self, node: Any) -> Any:
        self.generic_visit(node)
        return _paid(node)

    def visit_Dict(self, node: Any) -> Any:
        self.generic_visit(node)
        return _paid(node)

    def visit_Tuple(self, node: Any) -> Any:
        self.generic_visit(node)
        return _paid(node) if node.ctx == "load" else node

    def visit_Output(self, node: Any) -> Any:
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else _paid(part) for part in node.nodes
        ]
        return node

    def visit_For(self, node: Any) -> Any:
        return self._with_toll(node)

    def visit_Macro(self, node: Any) -> Any:
        return self._with_toll(node)

    def visit_CallBlock(self, node: Any) -> Any:
        return self._with_toll(node)

    def _with_toll(self, node: Any) -> Any:
        """Makes each run of a body pay for the body's own text."""
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        toll = nodes.Filter(nodes.Const(literal), "_spend", [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(toll))
        return node


def _paid(node: Any) -> Any:
    return nodes.Filter(node, "_paid", [], [], None, None)


def _guarded(name: str, function: Any, budget: Budget) -> Any:
    """The filter, paying for what it reads and makes; beforehand where that can be long."""

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        pay = budget.spend_on_outside if name in _REARRANGING else budget.spend_on
        for argument in (*args, *kwargs.values()):
            pay(argument)
        if name == "replace":
            text, old, new = (str(argument) for argument in args[1:4])
            budget.spend(_replaced_size(text, old, new))
        if name == "join":
            evaluation, iterable, *_ = args
            items = list(iterable)
            glue = str(args[2] if len(args) > 2 else kwargs.get("d", ""))
            budget.spend_on(items)
            budget.spend(len(items) * len(glue))
            args = (evaluation, items, *args[2:])
        return pay(function(*args, **kwargs))

    return filtered


def _replaced_size(text: str, old: str, new: str) -> int:
    # Every occurrence of `old`, and the two ends and all gaps when it is empty.
    return len(text) + text.count(old) * len(new)


def _raise_exception(message: str) -> None:
    raise ValueError(message)


def _to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter of transformers, whose arguments come in this order; paid for beforehand.

    Characters can become six each (a pair of surrogates twelve), and an indent is written before
    every item as often as it lies deep.
    """
    if indent is not None and not 0 <= indent <= 8:
        raise ValueError(f"tojson takes an indent of 0 to 8, got {indent}")
    if separators is not None and any(len(text) > _MAX_SEPARATOR for text in separators):
        raise ValueError(f"tojson takes separators of at most {_MAX_SEPARATOR} characters")
    budget.spend_on(value)
    if indent is not None:
        _spend_on_indents(budget, value, indent, indent)
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    budget.spend(len(text))
    return text


def _spend_on_indents(budget: Budget, value: Any, indent: int, margin: int) -> None:
    if isinstance(value, (dict, list, tuple)):
        budget.spend((len(value) + 1) * margin)
        for item in value.values() if isinstance(value, dict) else value:
            _spend_on_indents(budget, item, indent, margin + indent)

"""A declaration of the wrong type is refused with its own words, from a file and from Python."""

from __future__ import annotations

import pytest

import remote_mi as mi
from remote_mi.common.errors import RunFailed, UsageError
from remote_mi.recipes.card_source import cards_in
from remote_mi.recipes.declaration import card_of

HEAD = """
from typing import Annotated, Any, Literal
from remote_mi import Bars, Heatmap, Range, Ratio, Table, Tokens, recipe
from remote_mi.interventions import Prompt, PromptText
"""
OUTPUTS = 'over="prompt", returns={"x": ("layer",), "g": ()}'
OF_PAIRS = 'over="pair", returns={"x": ()}'
#: The decorator's arguments, and what is said of them.
ARGUMENTS = {
    'over=["prompt"], returns={"x": ()}': "is not a text",
    'over="prompt", returns=["x"]': "is not a dict of names",
    'over="prompt", returns={"x": None}': "is not a dict of names",
    'over="prompt", returns={"x": "layer"}': "returns={'x': 'layer'} is not a dict of names",
    'over="prompt", returns={3: ("layer",)}': "is not a dict of names",
    'over="prompt", returns={"x": ("layer", 3)}': "is not a dict of names",
    'over="prompt", returns={"x": Tokens(3)}': "returns: Output has dims=(3,)",
    OUTPUTS + ', controls=["x"]': "controls=['x'] is not a dict of texts",
    OUTPUTS + ', controls={"x": ["g"]}': "is not a dict of texts",
    OUTPUTS + ', labels=["x"]': "labels=['x'] is not a dict of texts",
    OUTPUTS + ', figures="x"': "figures='x' is not a list of figures",
    OUTPUTS + ", figures=3": "figures=3 is not a list of figures",
    OUTPUTS + ', figures=["x"]': "is not a list of figures",
    OUTPUTS + ', figures=[Bars(["x"])]': "Bars has output=['x'], which is not a text",
    OUTPUTS + ', figures=[Bars("x", most="3")]': "which is not a whole number",
    OUTPUTS + ', figures=[Heatmap("x", center="a")]': "which is not a number or None",
    OUTPUTS + ', figures=[Table("x", columns="g")]': "Table has columns='g', which is not a list",
    OUTPUTS + ', summaries=["s"]': "summaries=['s'] is not a dict",
    OUTPUTS + ', summaries={"s": "layer"}': "summaries={'s': 'layer'} is not a dict",
    OUTPUTS + ', summaries={"s": Ratio(["x"], gap="g")}': "Ratio has effect=['x']",
    OUTPUTS + ", analysis=3": "analysis=3 is not a text",
    OUTPUTS + ', setup=["f"]': "setup=['f'] is not a text",
    OUTPUTS + ', needs="gradients"': "needs='gradients' is not a list of texts",
    OUTPUTS + ", evidence=3": "evidence=3 is not a text",
    OUTPUTS + ', evidence="causal"': (
        "evidence='causal' is not one of 'observational', 'interventional', 'counterfactual'"
    ),
    OUTPUTS + ", lengths=3": "lengths=3 is not a text or a dict of parameters",
    OUTPUTS + ", lengths={}": "lengths={} is not a text or a dict of parameters",
    OUTPUTS + ', lengths="some"': "lengths='some' is not one of 'equal', 'any', or a dict of",
    OUTPUTS + ', lengths="any"': "lengths is for recipes over pairs, not over 'prompt'",
    OF_PAIRS + ', lengths={"m": 1}': "lengths names 'm', which is none of its parameters",
    OF_PAIRS + ', lengths={"n": "x"}': "lengths: parameter 'n'",
    OUTPUTS + ", references=[3]": "references=[3] is not a list of texts",
}
#: A parameter, and what is said of it.
PARAMETERS = {
    'n: Annotated[int, Range("a", 5)] = 1': "Range has low='a', which is not a number or None",
    "n: Annotated[int, Range(5, 1)] = 1": "no number is from 5 to 1",
    'n: Annotated[str, Range(1, 5)] = "a"': "a Range is only for numbers",
    'n: Literal["a", 1] = "a"': "the choices of a Literal must be texts, not ('a', 1)",
    "n: [int] = 1": "its type must be",
    'n: int = "1"': "its default '1' is not a whole number",
    "n: list[int] = 3": "its default 3 is not whole numbers",
    'n: Literal["a"] = "b"': "its default 'b' is not one of a",
    "n: Annotated[int, Range(1, 5)] = 9": "its default 9 is not a whole number from 1 to 5",
    "n: PromptText = 3": "its default 3 is not a prompt's text",
}
#: What Python itself refuses when the file is imported, and what is said when it is only read.
ONLY_IN_FILES = {
    (OUTPUTS, "n: Annotated[int] = 1"): "cannot read 'Annotated[int]': TypeError",
    (OUTPUTS, 'n: int = -"x"'): "cannot read \"-'x'\": TypeError",
    (OUTPUTS, 'n: str = "a" | "b"'): "cannot read \"'a' | 'b'\": TypeError",
    ('over="prompt", returns={[1]: ()}', "n: int = 1"): "cannot read '{[1]: ()}': TypeError",
    (OUTPUTS + ", figures=[Bars()]", "n: int = 1"): "cannot read 'Bars()': TypeError",
    (OUTPUTS + ", figure=[]", "n: int = 1"): "unknown argument 'figure': did you mean 'figures'?",
}
CASES = [(arguments, "n: int = 1", said) for arguments, said in ARGUMENTS.items()]
CASES += [(OUTPUTS, parameter, said) for parameter, said in PARAMETERS.items()]


def text_of(arguments: str, parameter: str) -> str:
    return (
        f"{HEAD}\n@recipe({arguments})\n"
        f"def mine(lm: Any, prompt: Prompt, *, {parameter}) -> Any:\n    return {{}}\n"
    )


@pytest.mark.parametrize("arguments, parameter, said", CASES)
def test_a_declaration_of_the_wrong_type_is_refused(tmp_path, arguments, parameter, said):
    text, path = text_of(arguments, parameter), tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError) as of_file:
        cards_in(path)
    names: dict = {}
    exec(text, names)
    with pytest.raises(UsageError) as of_function:
        card_of(names["mine"])
    assert said in of_file.value.message and said in of_function.value.message
    assert of_file.value.message.startswith(f"{path}:7: recipe 'mine': ")


@pytest.mark.parametrize("case", ONLY_IN_FILES)
def test_an_expression_that_python_refuses_is_named_with_its_line(tmp_path, case):
    path = tmp_path / "mine.py"
    path.write_text(text_of(*case))
    with pytest.raises(UsageError) as refused:
        cards_in(path)
    assert ONLY_IN_FILES[case] in refused.value.message
    assert refused.value.message.startswith((f"{path}:6: ", f"{path}:7: "))


@pytest.mark.parametrize("expression", ["(" * 3000 + "1" + ")" * 3000, "-" * 200_000 + "1"])
def test_a_file_nested_too_deeply_for_python_is_refused(tmp_path, cli, expression):
    path = tmp_path / "deep.py"
    path.write_text(f"{text_of(OUTPUTS, 'n: int = 1')}\nDEEP = {expression}\n")
    code, _, err = cli("recipes", "show", path)
    assert code == 2 and f"{path}" in err and "nested" in err and "bug in" not in err


def test_annotations_that_cannot_be_evaluated_are_said():
    def mine(lm, prompt, *, n: "Missing" = 1):  # type: ignore[name-defined]  # noqa: F821, UP037
        return {}

    decorated = mi.recipe(over="prompt", returns={"x": ()})(mine)
    with pytest.raises(UsageError, match="annotations cannot be evaluated: NameError"):
        card_of(decorated)


ANALYSIS = """
@recipe(over="prompt", returns={{"x": ()}}, analysis="sum_up", summaries={{"s": ("layer",)}})
def mine(lm: Any, prompt: Prompt) -> Any:
    return {{"x": 1.0}}

def sum_up(examples):
    return {returned}
"""


@pytest.mark.parametrize(
    "returned, said",
    [
        ("None", "its analysis 'sum_up' returned NoneType, not a dict of its summaries"),
        ('"text"', "returned str, not a dict"),
        ("[1.0]", "returned list, not a dict"),
        ('{"s": None}', "returned 's', which is not an array of numbers"),
        ('{"s": ["a", "b"]}', "returned 's', which is not an array of numbers"),
        ('{"s": [[1.0], [1.0, 2.0]]}', "returned 's', which is not an array of numbers"),
        ('{"s": [1.0], "s:low": "a"}', "returned 's:low', which is not an array of numbers"),
        ("{}", "did not return 's'"),
    ],
)
def test_an_analysis_that_gives_no_numbers_is_a_failed_run(project, tiny_llama, returned, said):
    path = project / "mine.py"
    path.write_text(HEAD + ANALYSIS.format(returned=returned))
    with pytest.raises(RunFailed) as failed:
        mi.run(str(path), model=str(tiny_llama), prompt="Mary and John")
    assert said in failed.value.message

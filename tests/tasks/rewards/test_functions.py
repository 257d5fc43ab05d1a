"""Rewards by hand, and every way in which a project's function can be unusable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from configs.errors import ConfigError
from configs.schema.train import RewardFunctionConfig
from tasks.rewards import functions
from tasks.rewards.functions import check_rewards, reward_functions, rewards_hash, total_reward
from tasks.rewards.numbers import last_number_matches

GSM8K = r"#### (-?[0-9.,]+)"


def rewards(completions: list[str], expected: list[str], **config) -> list[float]:
    (function,) = reward_functions([RewardFunctionConfig(**config)])
    return function([""] * len(completions), completions, expected)


def test_exact_match_ignores_white_space_at_the_ends_alone() -> None:
    assert rewards([" 42\n", "42.", "", "4 2"], ["42"] * 4, kind="exact_match") == [1.0, 0.0, 0.0, 0.0]


def test_exact_match_compares_what_the_last_match_has_in_its_group() -> None:
    answers = ["6 * 7\n#### 42", "#### 41, no: #### 42", "#### 42, no: #### 41", "42", "#### 1,042", ""]
    assert rewards(answers, ["so\n#### 42"] * 6, kind="exact_match", pattern=GSM8K) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_an_expected_text_without_a_match_is_compared_as_a_whole() -> None:
    assert rewards(["#### 42", "42"], ["42 ", "42"], kind="exact_match", pattern=GSM8K) == [1.0, 0.0]


def test_a_group_that_took_no_part_is_no_match() -> None:
    assert rewards(["b", "ab"], ["ab", "ab"], kind="exact_match", pattern="(a)?b") == [0.0, 1.0]


def test_a_regular_expression_is_searched_anywhere_in_the_answer() -> None:
    assert rewards(["say <b>so</b>", "so"], ["", ""], kind="regex", pattern=r"<b>.*</b>") == [1.0, 0.0]


def test_numbers_are_compared_by_value() -> None:
    answers = ["so 1,000.", "1000.00", "it is 10 00", "-1000", "none", "3.5 or 1000"]
    assert last_number_matches([""] * 6, answers, ["#### 1,000"] * 6) == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert last_number_matches([""], ["no"], ["no"]) == [0.0]


def test_a_function_of_the_project_is_called_by_name() -> None:
    config = {"kind": "python", "function": "tasks.rewards.numbers:last_number_matches"}
    assert rewards(["a 7"], ["7"], **config) == [1.0]
    assert reward_functions([RewardFunctionConfig(**config)])[0].__name__ == "last_number_matches"


def test_rewards_are_added_up_with_their_weights() -> None:
    configs = [
        RewardFunctionConfig(kind="exact_match", weight=2.0),
        RewardFunctionConfig(kind="regex", pattern="a", weight=-0.5),
    ]
    given = (["", "", ""], ["a", "b", "ca"], ["a", "b", "b"])
    assert total_reward(configs, reward_functions(configs), *given) == [1.5, 2.0, -0.5]
    assert total_reward([], [], *given) == [0.0, 0.0, 0.0]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make `tmp_path` the project's folder; returns a function that writes a module and names it in a config."""
    monkeypatch.setattr(functions, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(body: str, module: str = f"my_rewards_{tmp_path.name}".replace("-", "_"), name: str = "reward"):
        (tmp_path / f"{module}.py").write_text(body, encoding="utf-8")
        return RewardFunctionConfig(kind="python", function=f"{module}:{name}")

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_beside_the_packages_is_found(project) -> None:
    config = project("def reward(completions, **_):\n    return [len(c) for c in completions]\n")
    check_rewards([config])
    assert reward_functions([config])[0]([""] * 2, ["a", "bcd"], [""] * 2) == [1.0, 3.0]


@pytest.mark.parametrize("module", ["os.path", "torch", "nowhere.at.all", "configs"])
def test_a_module_that_is_no_file_of_the_project_is_refused_and_not_imported(module: str) -> None:
    config = RewardFunctionConfig(kind="python", function=f"{module}:join")
    if module == "configs":
        with pytest.raises(
            ConfigError, match=r"configs has no join; define `def join\(prompts, completions, expected\)"
        ):
            check_rewards([config])
        return
    with pytest.raises(ConfigError) as error:
        check_rewards([RewardFunctionConfig(kind="exact_match"), config])
    assert str(error.value).startswith(f"train.policy.rewards[1].function={module}:join: module {module} is not a file")
    assert "write it to " in str(error.value)
    assert "nowhere" not in sys.modules


def test_a_link_out_of_the_project_is_refused(project, tmp_path: Path, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "linked_rewards.py"
    outside.write_text("raise SystemExit", encoding="utf-8")
    (tmp_path / "linked_rewards.py").symlink_to(outside)
    with pytest.raises(ConfigError, match="not a file of this project"):
        check_rewards([RewardFunctionConfig(kind="python", function="linked_rewards:f")])


def test_a_name_that_an_installed_package_has_is_refused(project) -> None:
    with pytest.raises(ConfigError, match="an installed package is named this too; rename the project's"):
        check_rewards([project("", module="this")])
    with pytest.raises(ConfigError, match="json is another installed module"):
        check_rewards([project("def reward(**_): ...", module="json")])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def other(): ...", "has no reward; define `def reward(prompts, completions, expected)`"),
        ("reward = 3", "has a value, not a function, named reward"),
        ("def reward(completions): ...", "does not take prompts=, completions= and expected="),
        ("def reward(a, b, c): ...", "does not take prompts=, completions= and expected="),
        ("import not_installed_anywhere", "failed with ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("def reward(:", "failed with SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_any_work(body: str, words: str, project) -> None:
    with pytest.raises(ConfigError) as error:
        check_rewards([project(body)])
    assert str(error.value).startswith("train.policy.rewards[0].function=my_rewards_")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("[1.0]", "returned 1 numbers for 2 answers; return one per answer"),
        ("None", "returned NoneType; return a list"),
        ("3.0", "returned float; return a list"),
        ("'12'", "returned str; return a list"),
        ("['SECRET', 1.0]", "returned text for an answer"),
        ("[None, 1.0]", "returned NoneType for an answer"),
        ("[float('nan'), 1.0]", "returned nan for an answer; return finite numbers"),
        ("[1.0, float('-inf')]", "returned -inf for an answer"),
        ("[int(c) for c in completions]", "failed with ValueError in line 2 of my_rewards_"),
    ],
)
def test_a_wrong_result_is_an_error_without_any_content(result: str, words: str, project) -> None:
    (function,) = reward_functions([project(f"def reward(prompts, completions, expected):\n    return {result}\n")])
    with pytest.raises(ConfigError) as error:
        function(["SECRET"] * 2, ["SECRET"] * 2, ["SECRET"] * 2)
    assert words in str(error.value)
    assert str(error.value).startswith("train.policy.rewards[0].function=my_rewards_")
    assert "SECRET" not in str(error.value) and error.value.__cause__ is None


def test_numbers_of_numpy_and_torch_are_numbers(project) -> None:
    body = "import numpy, torch\ndef reward(**_):\n    return [numpy.float32(0.5), torch.tensor(2), True]\n"
    (function,) = reward_functions([project(body)])
    assert function([""] * 3, [""] * 3, [""] * 3) == [0.5, 2.0, 1.0]


def test_the_hash_follows_the_file(project) -> None:
    config = project("def reward(**_): return []\n")
    first = rewards_hash([config])
    assert first == rewards_hash([config])
    project("def reward(**_): return [1]\n")
    assert rewards_hash([config]) != first
    assert rewards_hash([]) == rewards_hash([RewardFunctionConfig(kind="exact_match")])


def test_checking_rewards_loads_no_torch() -> None:
    code = (
        "import sys; from configs.schema.train import RewardFunctionConfig as C; from tasks.rewards import functions\n"
        "functions.check_rewards([C(kind='python', function='tasks.rewards.numbers:last_number_matches')])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_pattern_that_takes_too_long_on_an_answer_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        rewards(["a" * 60 + "!"], ["a"], kind="regex", pattern=r"(a|aa)+$")
    assert str(caught.value).splitlines() == [
        "train.policy.rewards[0].pattern took more than 1 s on one text, of at most 61 characters",
        "write it without repeats within repeats, such as (a|aa)+, which try every division of a text",
    ]


def test_an_endless_pattern_is_found_before_training() -> None:
    configs = [
        RewardFunctionConfig(kind="regex", pattern=r"^(?:[^#]*\n)*#### -?\d+$"),
        RewardFunctionConfig(kind="exact_match", pattern=GSM8K),
    ]
    check_rewards(configs)
    with pytest.raises(ConfigError, match=r"^train\.policy\.rewards\[2\]\.pattern took more than 1 s on one text"):
        check_rewards([*configs, RewardFunctionConfig(kind="exact_match", pattern=r"(\d|\d\d)+$")])


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("(a", r"is not a regular expression: missing \), unterminated subpattern at position 0"),
        ("a{1000000001}", "has counts of repeats whose product is above 1,000,000; lower them"),
        ("((a{1000}){1000}){2}", "has counts of repeats whose product is above 1,000,000; lower them"),
        ("(" * 900 + ")" * 900, "is nested too deeply; write it flatter"),
        ("a" * 2001, "has 2001 characters, and the most are 2000; shorten it"),
        ("(?:answer){e<=1}", r"has a brace before a letter; write \\{ for the character"),
        ("(?R)", "is not a regular expression"),
    ],
)
def test_a_pattern_that_cannot_be_run_is_refused(pattern: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        RewardFunctionConfig(kind="regex", pattern=pattern)


@pytest.mark.parametrize("pattern", [r"\{a", r"x{1000000}", r"\d{1,3}(,\d{3}){0,10}", r"{}", "a" * 2000])
def test_a_usual_pattern_is_accepted(pattern: str) -> None:
    assert RewardFunctionConfig(kind="regex", pattern=pattern).pattern == pattern

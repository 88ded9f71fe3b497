"""The command answers at once, prints results on stdout and everything else on stderr, and documents its
exit codes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

from nas import commands, exit_codes
from nas.cli import COMMANDS, WITHOUT_RESULT, main, parser
from nas.progress import track
from nas.storage.store import Store


def nas(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nas.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -- help --------------------------------------------------------------------------------------


def test_help_answers_at_once():
    seconds = []
    for _ in range(5):
        before = children_cpu()
        assert nas("--help").returncode == 0
        seconds.append(children_cpu() - before)

    assert min(seconds) < 0.3


def test_help_loads_nothing_that_is_slow():
    script = (
        "import sys\n"
        "from nas.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'ray', 'dash', 'numpy', 'sqlalchemy', 'rich'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "set()"


def test_help_lists_every_command_and_every_exit_code(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    out = capsys.readouterr().out
    assert caught.value.code == 0
    for name in COMMANDS:
        assert f"    {name} " in out or f"    {name}\n" in out
    codes = ("OK", "MISTAKE", "INFEASIBLE", "FAILED", "UNVERIFIED", "INTERRUPTED")
    for name, code in zip(codes, (0, 2, 3, 4, 5, 130), strict=True):
        assert getattr(exit_codes, name) == code
        assert f"\n  {code} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_by_the_docstring_of_its_file(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])

    out = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert import_module(f"nas.commands.{name}").__doc__ in out
    assert ("--json" in out) == (name not in WITHOUT_RESULT)


def test_what_people_type_stays_what_it_is():
    training, looking = ("run", "train", "search", "profile", "report"), ("devices", "measure", "explain")
    chosen = ("export", "pick", "health", "transfer", "verify", "dashboard")

    assert tuple(COMMANDS) == (*training, *chosen, *looking, "operators", "doctor")
    assert WITHOUT_RESULT == ("dashboard",)


def test_every_file_of_a_command_is_found():
    """And what the others are for is said where the commands are."""
    files = {one.name for one in iter_modules(commands.__path__)}
    shared = files - set(COMMANDS)

    assert set(COMMANDS) <= files
    assert all(name in commands.__doc__ for name in shared)
    assert not any(hasattr(import_module(f"nas.commands.{name}"), "carry_out") for name in shared)


def test_every_option_says_what_it_is_for():
    known = parser()._subparsers._group_actions[0].choices
    silent = [
        f"{name} {action.dest}"
        for name, command in known.items()
        for action in command._actions
        if not action.help
    ]

    assert tuple(known) == COMMANDS
    assert silent == []


def test_without_a_command_it_helps_and_with_version_it_says_which(capsys):
    assert main([]) == 2
    assert "exit codes:" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rn"], "invalid choice: 'rn' (choose from"),
        (["run"], "the following arguments are required: file; `nas run --help` shows what is allowed"),
        (["run", "x.yaml", "--bugdet", "3"], "unrecognized arguments: --bugdet 3"),
        (["export", "tiny", "--best", "accuracy", "--candidate", "1"], "not allowed with argument"),
        (["dashboard", "--port", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_mistyped_command_is_answered_in_one_line(capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert line.startswith("nas: ")
    assert said in line


# -- output ------------------------------------------------------------------------------------


def test_logs_and_progress_go_to_stderr_and_the_result_alone_to_stdout(tiny_run):
    done = nas("run", *tiny_run.arguments, "--json", "--verbose")

    told = json.loads(done.stdout)
    assert (done.returncode, told["run"], told["status"], told["candidates"]) == (0, "tiny", "finished", 20)
    assert "nas: digits: 1008 train, 287 validation, 143 calibration, 359 test images" in done.stderr


def test_training_alone_says_where_the_supernet_is(tiny_run, capsys):
    supernet = str(tiny_run.folder / "runs/tiny/supernet.safetensors")

    assert main(["train", *tiny_run.arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "tiny", "supernet": supernet}
    assert main(["train", *tiny_run.arguments]) == 0
    assert capsys.readouterr().out == f"the supernet of tiny is trained: {supernet}\n"


def test_a_finished_search_tells_its_front_and_what_to_do_next(tiny_run, capsys):
    assert main(["search", *tiny_run.arguments]) == 0

    out, err = capsys.readouterr()
    assert "20 candidates" in out
    assert err.splitlines() == [
        f"export the knee point:  nas export tiny --store {tiny_run.store_url}",
        f"look at it:             nas dashboard --store {tiny_run.store_url}",
    ]


def test_a_reader_that_leaves_early_is_no_error(tiny_run):
    script = f"{sys.executable} -m nas.cli report --json --store {tiny_run.store_url} | true; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("0\n", "")


def test_progress_on_a_terminal_shows_an_error_with_its_brackets(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    with track("searching", 2) as shown:
        shown.to(1, "k1 failed: OSError: [/dev/null] is [full]")
        shown.say("[/dev/null] is [full]")

    assert capsys.readouterr().err.count("[/dev/null] is [full]") >= 2


def test_progress_elsewhere_is_plain_lines_with_the_time_left(capsys):
    with track("searching", 3, done=1) as shown:
        shown.to(2, "k2")  # too soon for a line of its own
        shown.to(3, "k3")

    assert capsys.readouterr().err == "searching 3/3 (100 %) in 0 s; k3\n"


# -- doctor ------------------------------------------------------------------------------------


def test_the_doctor_finds_what_is_needed_here(tmp_path, capsys):
    store = f"sqlite:///{tmp_path / 'nas.db'}"

    assert main(["doctor", "--store", store, "--runs", str(tmp_path / "runs")]) == 0

    out = capsys.readouterr().out
    for word in ("python", "torch", "onnxruntime", "device onnxruntime-cpu   can be measured", "GB free"):
        assert word in out
    assert f"{store}: not there yet, `nas run` makes it" in out
    assert "MISSING" not in out
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_tells_scripts_the_same(tiny_run, capsys):
    code = main(["doctor", "--store", tiny_run.store_url, "--runs", str(tiny_run.folder), "--json"])

    found = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    assert code == 0
    assert all(one["ok"] for one in found.values() if one["needed"])
    assert found["store"]["said"].endswith(": 1 run")


def test_the_doctor_says_what_is_wrong_with_a_store(tmp_path, capsys):
    broken = tmp_path / "nas.db"
    broken.write_bytes(os.urandom(4096))

    assert main(["doctor", "--store", f"sqlite:///{broken}"]) == 2

    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSING")]
    assert "store" in line


def test_reading_a_store_never_makes_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["report"]) == 2
    assert main(["export", "tiny"]) == 2

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        Store("sqlite:///nas.db", create=False)


def test_of_brief_work_nothing_is_said_unless_it_takes_a_while(capsys, monkeypatch):
    with track("reading", 3, brief=True) as shown:
        for number in (1, 2, 3):
            shown.to(number)
    assert capsys.readouterr().err == ""

    monkeypatch.setattr("nas.progress.EVERY", 0.0)
    with track("reading", 3, brief=True) as shown:
        for number in (1, 2, 3):
            shown.to(number, "files")
    assert capsys.readouterr().err.count("reading") == 3

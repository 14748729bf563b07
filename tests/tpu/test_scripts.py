"""The launch scripts against a fake gcloud: what a dry run prints is what is called; failures end in a sentence."""

import re
import shlex

import pytest

from tests.tpu.fake import ROOT, SCRIPTS, SETTINGS, needs_bash

pytestmark = needs_bash

ARM = ("hnet/hnet_1stage", "--scale", "paper")
ARGUMENTS = {"start.sh": ARM, "watch.sh": ARM, "log.sh": ("3",), "delete.sh": ("--quiet",)}
KINDS = {  # settings, and what a slice of that kind answers when it is lost, and when it is ready
    "on demand": ((), ["PREEMPTED"], ["READY"]),
    "queued": (("--queued", "--spot", "--extra", "--reserved"), ["SUSPENDED"], ["ACTIVE", "READY"]),
    "multislice": (("--slices", "2"), ["SUSPENDED"], ["ACTIVE", "READY READY"]),
}
BUCKET, DISK = ("--bucket", "gs://data/my-runs"), ("--results", "my results")


def hosts_did(calls):
    """What `worker.sh` was told to do, in order."""
    told = [word.split("lmlab/tpu/worker.sh ")[-1] for call in calls for word in call if "worker.sh" in word]
    return [words.split()[0].rstrip(";") for words in told]


@pytest.mark.parametrize(
    "flags, command",
    [
        ((), "tpu-vm create lab {where} {type} --version=v2-alpha-tpuv5"),
        (("--spot",), "tpu-vm create lab {where} {type} --version=v2-alpha-tpuv5 --spot"),
        (("--queued",), "queued-resources create lab {where} {type} --runtime-version=v2-alpha-tpuv5 --node-id=lab"),
        (
            ("--slices", "3", "--spot", "--extra", "--network=n", "--extra", "--internal-ips"),
            "queued-resources create lab {where} {type} --runtime-version=v2-alpha-tpuv5 --node-count=3 "
            "--node-prefix=lab --spot --network=n --internal-ips",
        ),
    ],
)
def test_each_kind_of_slice_is_asked_for(flags, command, cloud):
    first = cloud.run("create.sh", "--dry-run", *flags).stdout.splitlines()[0]
    where, accelerator = "--project=a-project --zone=a-zone", "--accelerator-type=v5p-32"
    assert first == "gcloud compute tpus " + command.format(where=where, type=accelerator)


@pytest.mark.parametrize(
    "script, kind",
    [(s, k) for s in SCRIPTS for k in KINDS if k != "queued" or s in ("create.sh", "delete.sh", "watch.sh")],
)
def test_dry_run_prints_exactly_what_is_called(script, kind, cloud):
    flags, lost, ready = KINDS[kind]
    if script != "fetch.sh":
        (cloud.folder / "my results" / "runs").mkdir(parents=True)
    for storage in (DISK, (*DISK, *BUCKET)) if script in ("install.sh", "fetch.sh") else (DISK,):
        arguments = (*flags, *storage, *ARGUMENTS.get(script, ()))
        if script == "watch.sh":  # lost, created again (whoever queues asks whether it is there), and at its end
            cloud.answers(states=lost + ready * (1 if kind == "on demand" else 2), statuses=["ended 0"])
        else:
            cloud.answers(states=ready)

        before = sorted(cloud.folder.rglob("*"))
        dry = cloud.run(script, "--dry-run", *arguments)
        assert dry.returncode == 0, dry.stderr
        assert sorted(cloud.folder.rglob("*")) == before, "a dry run calls nothing and makes nothing"

        real = cloud.run(script, *arguments)
        assert real.returncode == 0, real.stderr
        called = cloud.calls()
        assert called

        cloud.answers(states=["READY"], statuses=["ended 0"])
        assert cloud.paste(dry.stdout).returncode == 0
        assert cloud.calls() == called


def test_values_with_spaces_and_quotes_survive(cloud):
    awkward = "corpus.path=it's $HOME/a b;c\\d\n*\"e\""
    cloud.run("start.sh", "--env", "FLAGS=--a=b --c='d'", *ARM, "--set", awkward)
    (call,) = cloud.calls()
    command = next(word for word in call if word.startswith("--command=")).removeprefix("--command=")
    reached = cloud.paste("printf '%s\\0' " + command).stdout.split("\0")[:-1]
    start = ["lmlab/tpu/worker.sh", "start", *ARM, "--set", awkward, "--distributed"]
    assert reached == ["env", "FLAGS=--a=b --c='d'", *start]


def test_one_process_on_every_host(cloud):
    cloud.run("start.sh", *ARM)
    cloud.run("start.sh", "--slices", "4", *ARM)
    one, four = cloud.calls()
    assert one[:4] == ["compute", "tpus", "tpu-vm", "ssh"] and "--worker=all" in one
    assert four[:4] == ["compute", "tpus", "queued-resources", "ssh"]
    assert "--worker=all" in four and "--node=all" in four


@pytest.mark.parametrize("kind", ["on demand", "queued", "multislice"])
def test_a_healthy_slice_is_left_alone(kind, cloud):
    flags, _, ready = KINDS[kind]
    cloud.answers(states=ready * 3, statuses=["running", "running", "ended 0"])
    assert cloud.run("watch.sh", *flags, *BUCKET, *ARM).returncode == 0
    calls = cloud.calls()
    assert [c for c in calls if {"create", "delete"} & set(c)] == []
    assert len([c for c in calls if "ssh" in c]) == 3, "it only asks whether training goes on"


@pytest.mark.parametrize(
    "kind, states",
    [
        ("on demand", ["READY", "PREEMPTED", "READY"]),
        ("queued", ["ACTIVE", "READY", "FAILED", "ACTIVE", "READY", "ACTIVE", "READY"]),
        ("queued", ["ACTIVE", "READY", "SUSPENDING", "SUSPENDED", "ACCEPTED"] + ["ACTIVE", "READY"] * 2),
        ("queued", ["ACTIVE", "READY", "ACTIVE", "PREEMPTED"] + ["ACTIVE", "READY"] * 2),
        ("multislice", ["ACTIVE", "READY READY", "ACTIVE", "READY PREEMPTED"] + ["ACTIVE", "READY READY"] * 2),
    ],
)
def test_what_was_preempted_is_created_again_once(kind, states, cloud):
    cloud.answers(states=states, statuses=["running", "ended 0"])
    done = cloud.run("watch.sh", *KINDS[kind][0], *BUCKET, *ARM)
    assert done.returncode == 0, done.stderr
    calls = cloud.calls()
    assert hosts_did(calls) == ["status", "install", "start", "status"]
    deleted = [i for i, call in enumerate(calls) if "delete" in call]
    created = [i for i, call in enumerate(calls) if "create" in call]
    assert len(deleted) == len(created) == 1 and deleted < created


def test_a_repairing_slice_is_waited_for(cloud):
    cloud.answers(states=["REPAIRING", "REPAIRING", "READY"], statuses=["ended 0"])
    assert cloud.run("watch.sh", *BUCKET, *ARM).returncode == 0
    assert not [c for c in cloud.calls() if {"create", "delete"} & set(c)]


@pytest.mark.parametrize("status, follows", [("idle", ["stop", "start"]), ("absent", ["install", "start"])])
def test_hosts_without_a_run_are_started(status, follows, cloud):
    cloud.answers(statuses=[status, "ended 0"])
    assert cloud.run("watch.sh", *BUCKET, *ARM).returncode == 0
    assert hosts_did(cloud.calls()) == ["status", *follows, "status"]


def test_a_training_that_keeps_ending_stops_the_watch_with_its_status(cloud):
    cloud.answers(statuses=["ended 7"])
    done = cloud.run("watch.sh", *BUCKET, *ARM)
    assert done.returncode == 7 and "three times" in done.stderr
    assert hosts_did(cloud.calls()) == ["status", "stop", "start"] * 2 + ["status"]


def test_a_preemption_forgives_crashes(cloud):
    cloud.answers(states=["READY", "READY", "PREEMPTED", "READY"], statuses=["ended 1"] * 4 + ["ended 0"])
    done = cloud.run("watch.sh", *BUCKET, *ARM)
    assert done.returncode == 0, done.stderr


def test_a_training_that_refuses_its_arguments_is_not_started_again(cloud):
    cloud.answers(statuses=["ended 2"])
    done = cloud.run("watch.sh", *BUCKET, *ARM)
    assert done.returncode == 2 and "log.sh" in done.stderr
    assert len(cloud.calls()) == 2


def test_results_are_fetched_and_sent_to_the_new_slice(cloud):
    (cloud.folder / "my results" / "runs").mkdir(parents=True)
    cloud.answers(states=["PREEMPTED", "READY"], statuses=["ended 0"])
    cloud.run("watch.sh", *DISK, *ARM)
    copies = [call[-2:] for call in cloud.calls() if "scp" in call]
    assert copies == [["my results/runs", "lab:runs.new"], ["lab:runs", "my results"]]


def test_what_hosts_have_is_not_replaced_by_what_was_fetched(cloud):
    (cloud.folder / "my results" / "runs").mkdir(parents=True)
    (cloud.folder / "runs").touch()
    assert cloud.run("install.sh", *DISK).returncode == 0
    assert not [call for call in cloud.calls() if "scp" in call]


def test_a_training_that_was_stopped_is_fetched_and_waited_for(cloud):
    cloud.answers(statuses=["held", "held", "running", "held", "ended 0"])
    done = cloud.run("watch.sh", *DISK, *ARM)
    assert done.returncode == 0 and "waiting for start.sh" in done.stdout + done.stderr
    calls = cloud.calls()
    assert hosts_did(calls) == ["status"] * 5
    fetched = [i for i, call in enumerate(calls) if "scp" in call]
    asked = [i for i, call in enumerate(calls) if any("worker.sh status" in word for word in call)]
    assert len(fetched) >= 3 and asked[0] < fetched[0] < asked[1], "at once, and what a later stop has saved too"


@pytest.mark.parametrize("fails, did", [
    ("* ssh *worker.sh start*", ["status", "stop", "start", "status", "stop", "start", "status"]),
    ("* ssh *worker.sh stop*", ["status", "stop", "status", "stop", "start", "status"]),
])  # fmt: skip
def test_a_restart_that_does_not_get_through_is_made_again(fails, did, cloud):
    cloud.answers(statuses=["ended 7", "ended 7", "ended 0"])
    cloud.fail(3, fails)
    (cloud.folder / "bin" / "sleep").write_text('#!/bin/sh\nrm -f "$FAKE/fail"\n')
    (cloud.folder / "bin" / "sleep").chmod(0o755)
    assert cloud.run("watch.sh", *BUCKET, *ARM).returncode == 0
    assert hosts_did(cloud.calls()) == did


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_failing_gcloud_stops_the_script_with_its_status(script, cloud):
    cloud.fail(41, "*")
    done = cloud.run(script, *DISK, *ARGUMENTS.get(script, ()))
    assert done.returncode == 41
    assert done.stderr.startswith(f"{script}: 'gcloud compute tpus ") and "exit status 41" in done.stderr
    attempts = 3 if script == "watch.sh" else 1  # one lost connection does not end a watch of days
    assert len(cloud.calls()) == attempts


def test_a_passing_failure_does_not_end_the_watch(cloud):
    cloud.fail(1, "* ssh * *status*")
    cloud.answers(statuses=["ended 0"])
    (cloud.folder / "bin" / "sleep").write_text('#!/bin/sh\nrm -f "$FAKE/fail"\n')
    (cloud.folder / "bin" / "sleep").chmod(0o755)
    done = cloud.run("watch.sh", *BUCKET, *ARM)
    assert done.returncode == 0 and "exit status 1" in done.stderr


def test_a_creation_that_fails_is_tried_again_without_deleting_twice(cloud):
    cloud.answers(states=["PREEMPTED", "NOT_FOUND"])
    cloud.fail(5, "* create *")
    done = cloud.run("watch.sh", *BUCKET, *ARM)
    assert done.returncode == 5 and "Three attempts" in done.stderr
    calls = [word for call in cloud.calls() for word in call if word in ("describe", "delete", "create")]
    assert calls == ["describe", "delete", "create", *["describe", "create"] * 2]


def test_a_slice_that_somebody_else_deleted_is_not_created(cloud):
    cloud.answers(states=["NOT_FOUND"])
    assert cloud.run("watch.sh", *BUCKET, *ARM).returncode == 1
    assert not [call for call in cloud.calls() if "create" in call]


def test_a_request_that_fails_in_the_queue_is_said(cloud):
    cloud.answers(states=["ACCEPTED", "FAILED"])
    done = cloud.run("create.sh", "--queued")
    assert done.returncode == 1 and "lab is FAILED" in done.stderr


@pytest.mark.parametrize(
    "script, arguments, sentence",
    [
        ("create.sh", ("--slices", "none"), "--slices takes a positive integer"),
        ("create.sh", ("--slices", "0"), "--slices takes a positive integer"),
        ("create.sh", ("--name", "My Slice"), "--name takes lower-case letters"),
        ("create.sh", ("--zone",), "--zone needs a value"),
        ("create.sh", ("--zone", ""), "--zone needs a value"),
        ("create.sh", ("--preemptible",), "--preemptible is not a setting"),
        ("create.sh", ("lab",), "Unexpected argument 'lab'"),
        ("install.sh", ("--bucket", "data"), "--bucket takes gs://"),
        ("start.sh", ("--env", "FLAGS", *ARM), "--env takes NAME=VALUE"),
        ("start.sh", (), "Name what to train"),
        ("start.sh", ("hnet",), "Name what to train"),
        ("start.sh", ("--scale", "paper", "hnet/hnet_1stage"), "--scale is not a setting"),
        ("log.sh", ("first",), "A worker is a number"),
        ("fetch.sh", (), "Missing --results"),
        ("delete.sh", ("--force",), "--force is not a setting"),
        ("watch.sh", ARM, "Missing --bucket or --results"),
        ("watch.sh", (*BUCKET, "--every", "soon", *ARM), "--every takes whole seconds"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(script, arguments, sentence, cloud):
    done = cloud.run(script, *arguments)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert cloud.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_is_assumed_about_project_and_zone(script, cloud):
    missing = "ZONE" if script in ("start.sh", "delete.sh", "log.sh", "watch.sh") else "PROJECT"
    settings = {name: value for name, value in SETTINGS.items() if name != missing}
    done = cloud.run(script, *DISK, *ARGUMENTS.get(script, ()), settings=settings)
    assert done.returncode == 2 and f"Missing --{missing.lower()}" in done.stderr
    assert cloud.calls() == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_setting(script, cloud):
    done = cloud.run(script, "--help", settings={})
    assert done.returncode == 0 and done.stdout.startswith(script)
    assert "--dry-run" in done.stdout and all(f"LMLAB_TPU_{name}" in done.stdout for name in SETTINGS)


def test_flags_win_over_the_environment(cloud):
    done = cloud.run("stop.sh", "--dry-run", "--zone", "elsewhere")
    assert "--zone=elsewhere" in shlex.split(done.stdout)


def test_the_page_shows_every_script_and_only_these():
    page = (ROOT / "tpu" / "README.md").read_text()
    assert set(re.findall(r"\b([a-z]+\.sh)\b", page)) - {"worker.sh"} == set(SCRIPTS)


def test_the_page_shows_commands_that_the_scripts_take(cloud):
    page = (ROOT / "tpu" / "README.md").read_text()
    shown = re.findall(r"^    tpu/([a-z]+\.sh)([^#\n]*)", page, re.M)
    settings = SETTINGS | {"BUCKET": "gs://data/lab", "RESULTS": "results"}
    for script, arguments in shown:
        done = cloud.run(script, "--dry-run", *shlex.split(arguments), settings=settings)
        assert done.returncode == 0, done.stderr
    assert len(shown) > 6

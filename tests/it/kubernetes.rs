//! The manifests in `contrib/kubernetes/`: their fields are known to Kubernetes, and what a pod runs says by
//! its exit code whether another pod is needed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{Root, describe, skipped};

/// The first version in which `backoffLimitPerIndex` is there without a feature gate, and two later ones.
const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];

fn manifest(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/kubernetes");
    fs::read_to_string(dir.join(name)).unwrap()
}

/// The validator knows only objects with a name of their own.
fn validated(dir: &Path, text: &str, version: &str) -> Output {
    let file = dir.join("manifest.yaml");
    fs::write(
        &file,
        text.replace("generateName: harness-", "name: harness"),
    )
    .unwrap();
    let mut command = Command::new("kubernetes-validate");
    command.args(["--strict", "-k", version]).arg(file);
    command.output().unwrap()
}

#[test]
fn every_field_of_the_manifests_is_known_to_kubernetes() {
    let mut version = Command::new("kubernetes-validate");
    if version.arg("--version").output().is_err() {
        return skipped(
            "the manifests of contrib/kubernetes: kubernetes-validate is not here (pip install kubernetes-validate)",
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let job = manifest("job.yaml");
    for version in VERSIONS {
        for text in [&manifest("base.yaml"), &job] {
            let out = validated(dir.path(), text, version);
            assert!(out.status.success(), "{version}: {}", describe(&out));
        }
        // It would see a mistake.
        for (right, wrong) in [
            ("backoffLimitPerIndex:", "backoffLimitPerIndx:"),
            (
                "readOnlyRootFilesystem: true",
                "readOnlyRootFilesystem: often",
            ),
        ] {
            assert!(job.contains(right));
            let out = validated(dir.path(), &job.replace(right, wrong), version);
            assert!(
                !out.status.success(),
                "{version}: {wrong}: {}",
                describe(&out)
            );
        }
    }
}

/// Starts what the container of a pod runs, with other folders.
fn pod(root: &Root, disk: &Path) -> Child {
    let job = manifest("job.yaml");
    let script = job.split_once("            - |\n").unwrap().1;
    let script = script.split_once("          env:").unwrap().0;
    let bin = Path::new(env!("CARGO_BIN_EXE_harness")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(root.path());
    command.env("PATH", path).env("LOCAL", disk);
    for (name, folder) in [("HOME", "home"), ("TMPDIR", "tmp")] {
        command.env(name, disk.join(folder));
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn a_pod_that_is_stopped_is_no_success_and_its_items_go_back() {
    let root = Root::with_repo();
    let disk = tempfile::tempdir().unwrap();
    root.script("a", "echo made > made");
    let code = pod(&root, disk.path()).wait().unwrap().code();
    assert_eq!(code, Some(0));
    assert!(root.is_done("a"));

    let waits =
        ": > \"$HARNESS_ROOT/began\"; until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done";
    root.script("b", waits);
    let mut stopped = pod(&root, disk.path());
    root.wait_until("b has begun", || root.at("began").exists());
    crate::support::kill(stopped.id(), "TERM");
    assert_eq!(stopped.wait().unwrap().code(), Some(111));
    assert!(root.at("queue/pending/b").exists(), "{:#}", root.show("b"));

    // The next one does the rest. What is parked needs a person, not another pod.
    fs::write(root.at("go"), "").unwrap();
    root.drop_file("c", b"#!/bin/sh\n#harness retries: 0\nexit 1\n", 0o755);
    let code = pod(&root, disk.path()).wait().unwrap().code();
    assert_eq!(code, Some(1));
    assert!(root.is_done("b") && root.is_parked("c"));
    root.assert_nothing_left();
}

//! What happens to processes and to an engine's images in the middle of a push, with a real engine and a real registry.

use crate::command::{Cmd, Outcome, wait_for};
use crate::engine::Engine;
use crate::image::{self, HEAVY};
use crate::push::{push, reported};
use crate::reliability;
use crate::stack::Stack;
use crate::verify::pull_with_skopeo;
use crate::way::{Registry, Way, arrived, blobs_of};
use std::time::{Duration, Instant};

const PARTS: &[&str] = &["dockerd", "docker", "skopeo", "curl"];
/// Slow enough for something to happen in the middle: the image of 24 MiB takes two seconds at least.
const RATE: u64 = 12 << 20;
const LIMIT: Duration = Duration::from_secs(180);

/// A folder for temporary files.
fn temp(stack: &Stack, name: &str) -> std::path::PathBuf {
    let temp = stack.space.path(name);
    std::fs::create_dir_all(&temp).expect("a folder");
    temp
}

/// Runs a push, and `then` once it has sent `bytes`.
fn once_sent(way: &Way, bytes: u64, push: Cmd, then: impl FnOnce()) -> Outcome {
    std::thread::scope(|scope| {
        let pushing = scope.spawn(move || push.run());
        wait_for("some bytes of the image", LIMIT, || {
            (way.now().sent() > bytes || pushing.is_finished()).then_some(())
        });
        assert!(!pushing.is_finished(), "the push was over before anything could happen");
        then();
        pushing.join().expect("the push")
    })
}

/// Kills a push after a part of the time that a whole one takes, and runs it again. Gives what the second run had to send and what the
/// first had got through.
fn kill(stack: &'static Stack, registry: &Registry, repository: &str, moment: Duration, reuse: &str) -> (u64, u64) {
    let source = stack.image(HEAVY);
    stack.create_repository(repository);
    let temp = temp(stack, &format!("kill-{}", repository.replace('/', "-")));
    let way = Way::start(registry, &[], Some(RATE));
    let command = || way.push(repository).args(["--output", "json", "--reuse", reuse, "--temp-dir"]).arg(&temp);
    // Both runs are of one user: what the first has written down, the second reads.
    let home = stack.space.path(&format!("homes/{}", repository.replace('/', "-")));
    std::fs::create_dir_all(&home).expect("a folder");
    let first = command().env("HOME", &home).limit(moment).run();
    assert!(first.status == -1 || first.status == 0, "it was killed, or done just before\n{first}");
    way.seen();
    let confirmed = registry.blobs(repository);
    if registry.has_tag(repository) {
        source.image.assert_same(&registry.pull(repository).image);
    }
    assert_eq!(std::fs::read_dir(&temp).expect("the folder").count(), 0, "temporary files are left\n{first}");
    let before = way.now().sent();
    let second = command().env("HOME", &home).limit(LIMIT).run();
    let told = second.to_string();
    let digest = reported(second, repository, &["v1"]);
    let pulled = registry.pull(repository);
    assert_eq!(pulled.digest, digest, "{told}");
    source.image.assert_same(&pulled.image);
    let blobs = blobs_of(&pulled);
    let missing: u64 = blobs.iter().filter(|(digest, _)| !confirmed.contains(*digest)).map(|(_, size)| size).sum();
    let sent = way.seen().sent() - before;
    assert_eq!(sent, missing, "confirmed before: {confirmed:?}, all: {blobs:?}\n{told}");
    (sent, blobs.values().sum::<u64>() - missing)
}

#[test]
fn a_killed_push_to_a_real_registry_is_run_again() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(HEAVY);
    let registry = Registry::start(stack);
    stack.create_repository("killed/clean");
    let way = Way::start(&registry, &[], Some(RATE));
    let started = Instant::now();
    let clean = way.push("killed/clean").args(["--output", "json"]).limit(LIMIT).run();
    let took = started.elapsed();
    arrived(&registry, &way, "killed/clean", clean, source);
    let kills = reliability::count(6, 40);
    let (mut sent, mut kept) = (0, 0);
    for number in 0..kills {
        // Spread over the whole push, with and without what the first run has written down.
        let moment = took.mul_f64((number as f64 + 0.5) / kills as f64);
        let reuse = if number % 2 == 0 { "registry" } else { "off" };
        let of_this = kill(stack, &registry, &format!("killed/at-{number}"), moment, reuse);
        (sent, kept) = (sent + of_this.0, kept + of_this.1);
    }
    assert!(sent > 0 && kept > 0, "no kill came in the middle: {sent} bytes sent, {kept} kept");
    let text = format!(
        "{kills} kills spread over pushes of 24 MiB in three layers to docker-registry behind nginx: **{kills} times the second run gave the \
         right image**, as skopeo pulls it back. On the registry's own disk {:.0} MB had been confirmed by then; the second runs sent the \
         other {:.0} MB and nothing else.\n",
        kept as f64 / 1e6,
        sent as f64 / 1e6,
    );
    reliability::write("kills-registry", &text);
}

/// A job that is cancelled: its whole process group gets the signal, the shell that started the push too.
#[test]
fn a_cancelled_process_group_leaves_nothing() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(HEAVY);
    let registry = Registry::start(stack);
    for signal in ["INT", "TERM"] {
        let repository = format!("cancelled/{}", signal.to_lowercase());
        stack.create_repository(&repository);
        let way = Way::start(&registry, &[], Some(RATE / 3));
        let temp = temp(stack, &format!("cancel-{signal}"));
        let group = stack.space.path(&format!("cancel-{signal}.pid"));
        // A step of a job: a shell with a group of its own, and the push as its child.
        let script = r#"echo $$ >"$0"; "$@"; status=$?; echo "status $status" >&2; exit $status"#;
        let command = way.push(&repository).arg("--temp-dir").arg(&temp).limit(LIMIT);
        let file = group.display().to_string();
        // The shell itself goes on after the signal, and says how the push ended.
        let trap = format!("trap : {signal}; {script}");
        let command = command.through(&["setsid", "--wait", "sh", "-c", &trap, &file]);
        let outcome = once_sent(&way, 4 << 20, command, || {
            let script = r#"kill "-$1" -- "-$(cat "$2")""#;
            stack.space.command("bash").args(["-c", script, "bash", signal]).arg(&group).run().ok();
        });
        let status = if signal == "INT" { 130 } else { 143 };
        let outcome = outcome.exit(status).says(&["stopped: nothing was tagged", &format!("status {status}")]);
        assert_eq!(outcome.stdout, "");
        assert!(!registry.has_tag(&repository), "{outcome}");
        assert_eq!(std::fs::read_dir(&temp).expect("the folder").count(), 0, "temporary files are left\n{outcome}");
        let script = r#"! kill -0 -- "-$(cat "$1")" 2>/dev/null"#;
        stack.space.command("bash").args(["-c", script, "bash"]).arg(&group).run().ok();
    }
}

#[test]
fn an_engine_whose_disk_is_full_in_mid_export_is_quoted() {
    let Some(stack) = Stack::signed(&[PARTS, &["mount"]].concat()) else {
        return;
    };
    let folder = temp(stack, "crowded");
    stack.space.command("mount").args(["-t", "tmpfs", "-o", "size=300m", "tmpfs"]).arg(&folder).run().ok();
    let engine = Engine::docker(&stack.space, "crowded");
    image::noisy(&stack.space, &engine, "crowded:1", &[20 << 20, 20 << 20]);
    // Room for one layer and a half is left: a classic engine writes all of an export to its disk before it sends the first byte.
    let script = r#"free=$(df --output=avail -k "$0" | tail -n 1); fallocate -l "$((free - 30 * 1024))k" "$0/ballast""#;
    stack.space.command("sh").args(["-c", script]).arg(&folder).run().ok();
    stack.create_repository("process/crowded");
    let temp = temp(stack, "crowded-temp");
    let command = push(stack, "crowded:1", "process/crowded", &["v1"]).env("DOCKER_HOST", engine.host());
    let outcome = command.args(["--engine-store", "off", "--temp-dir"]).arg(&temp).limit(LIMIT).run();
    let outcome = outcome.refused().says(&["no space left on device", "engine"]);
    assert!(
        stack
            .requests("process/crowded")
            .iter()
            .all(|request| !request.uri.contains("/manifests/") || request.method != "PUT")
    );
    assert_eq!(std::fs::read_dir(&temp).expect("the folder").count(), 0, "temporary files are left\n{outcome}");
    engine.kill();
}

#[test]
fn an_image_that_is_removed_meanwhile_arrives_whole_or_not_at_all() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let registry = Registry::start(stack);
    let engine = Engine::docker(&stack.space, "removing");
    for store in ["auto", "off"] {
        let (name, repository) = (format!("removed-{store}:1"), format!("process/removed-{store}"));
        image::noisy(&stack.space, &engine, &name, &[12 << 20, 9 << 20, 3 << 20]);
        let source = image::save(&stack.space, &engine, &name);
        stack.create_repository(&repository);
        let way = Way::start(&registry, &[], Some(RATE / 3));
        let command = way.push_image(&name, &repository).env("DOCKER_HOST", engine.host());
        let command = command.args(["--output", "json", "--engine-store", store]).limit(LIMIT);
        let outcome = once_sent(&way, 2 << 20, command, || {
            engine.run(&["rmi", "-f", &name]);
        });
        if outcome.status == 0 {
            arrived(&registry, &way, &repository, outcome, &source);
        } else {
            let outcome = outcome.refused();
            assert!(!registry.has_tag(&repository), "{outcome}");
        }
    }
    engine.kill();
}

#[test]
fn an_image_whose_tag_is_moved_meanwhile_is_the_one_that_was_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let (space, engine) = (&stack.space, stack.engine());
    let source = stack.image(HEAVY);
    image::on_top(space, engine, "scratch", "moved-to:1", b"another image");
    let registry = Registry::start(stack);
    for store in ["auto", "off"] {
        let (name, repository) = (format!("moved-{store}:1"), format!("process/moved-{store}"));
        engine.run(&["tag", HEAVY, &name]);
        stack.create_repository(&repository);
        let way = Way::start(&registry, &[], Some(RATE / 3));
        let command = way.push_image(&name, &repository).args(["--output", "json", "--engine-store", store]);
        let outcome = once_sent(&way, 2 << 20, command.limit(LIMIT), || {
            engine.run(&["tag", "moved-to:1", &name]);
        });
        arrived(&registry, &way, &repository, outcome, source);
    }
}

#[test]
fn two_to_eight_pushers_of_overlapping_images_at_once() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let (space, engine) = (&stack.space, stack.engine());
    image::noisy(space, engine, "overlap-0:1", &[5 << 20, 3 << 20]);
    for number in 1..8 {
        let content = format!("layer {number}");
        image::on_top(
            space,
            engine,
            &format!("overlap-{}:1", number - 1),
            &format!("overlap-{number}:1"),
            content.as_bytes(),
        );
    }
    let ids: Vec<String> = (0..8)
        .map(|number| engine.run(&["image", "inspect", "--format", "{{.Id}}", &format!("overlap-{number}:1")]))
        .collect();
    for pushers in 2..=8 {
        let repository = format!("process/overlap-{pushers}");
        stack.create_repository(&repository);
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let start = |number: usize| {
                let (image, tag) = (format!("overlap-{number}:1"), format!("v{number}"));
                let command = push(stack, &image, &repository, &[&tag, "same"])
                    .args(["--output", "json", "--wait-visible", "2s"])
                    .limit(LIMIT);
                scope.spawn(move || command.run())
            };
            let pushes: Vec<_> = (0..pushers).map(start).collect();
            pushes.into_iter().map(|push| push.join().expect("a push")).collect()
        });
        for (number, outcome) in outcomes.into_iter().enumerate() {
            let tag = format!("v{number}");
            let pulled = pull_with_skopeo(stack, &format!("{repository}:{tag}"));
            assert_eq!(pulled.image.config_digest, ids[number], "{repository}:{tag}");
            // Of those that were overtaken at the shared tag, the ones that see it say so: their own tag is there all the same.
            if outcome.status == 0 {
                assert_eq!(pulled.digest, reported(outcome, &repository, &[&tag, "same"]));
            } else {
                outcome.exit(1).says(&["the tag `same`", "somebody else has moved it"]);
            }
        }
        let same = pull_with_skopeo(stack, &format!("{repository}:same"));
        assert!(ids[..pushers].contains(&same.image.config_digest), "the shared tag is none of the images");
    }
}

/// The outage of a resolver: the name was there, is not for a while, and comes back; meanwhile connections break.
#[test]
fn a_name_that_cannot_be_resolved_for_a_while_is_waited_for() {
    let Some(stack) = Stack::signed(&[PARTS, &["mount"]].concat()) else {
        return;
    };
    let source = stack.image(HEAVY);
    let repository = "process/resolver";
    stack.create_repository(repository);
    let registry = Registry::start(stack);
    let way = Way::start(&registry, &["connection reset=1500000 lasting=4s"], Some(RATE / 3));
    let without = "127.0.0.1 localhost\n";
    let hosts = stack.space.write("resolver-hosts", format!("{without}127.0.0.1 proxy.test\n"));
    // Only this push sees that file in the place of /etc/hosts. There is no name server in the space.
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    let command = way.push(repository).env("HTTPS_PROXY", format!("http://proxy.test:{}", way.port()));
    let command = command.args(["--output", "json", "-v"]).limit(LIMIT);
    let command = command.through(&["unshare", "--mount", "--", "sh", "-c", script, &hosts.display().to_string()]);
    let outcome = once_sent(&way, 1 << 20, command, || {
        std::fs::write(&hosts, without).expect("the file");
        std::thread::sleep(Duration::from_secs(8));
        std::fs::write(&hosts, format!("{without}127.0.0.1 proxy.test\n")).expect("the file");
    });
    assert!(way.seen().hits() > 0, "no connection broke\n{outcome}");
    let outcome = outcome.says(&["the host name of the proxy on the way to", "cannot be resolved"]);
    arrived(&registry, &way, repository, outcome, source);
}

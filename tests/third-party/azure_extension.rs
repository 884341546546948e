//! The Azure Pipelines task without its program: what task.json declares, and the script that starts the program.

use crate::agent::{self, NODES, Step};
use crate::parts;
use crate::space::Space;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn extension(file: &str) -> PathBuf {
    parts::repository().join("integrations/azure-pipelines").join(file)
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn task_json() -> Value {
    read_json(&extension("EcrPush/task.json"))
}

/// The task in a folder of the space, with `program` in the place of the real one. The program has no run bit, as in a VSIX.
fn unpack(space: &Space, name: &str, program: impl AsRef<[u8]>) -> PathBuf {
    for file in ["index.js", "task.json"] {
        let content = std::fs::read(extension("EcrPush").join(file)).expect("a file of the task");
        space.write(&format!("{name}/{file}"), content);
    }
    space.write(&format!("{name}/bin/linux-x64/ecr-push"), program);
    space.path(name)
}

/// A program that tells what it was given. See `stand_in.cjs`.
fn stand_in() -> String {
    let script = std::fs::read_to_string(parts::repository().join("tests/third-party/stand_in.cjs")).expect("a script");
    format!("#!{}\n{script}", parts::npm("node20/bin/node").display())
}

fn space(name: &str) -> Option<Space> {
    parts::present(agent::PARTS).then(|| Space::new(name))
}

/// Statement 1 of the parity list, and what statements 2 and 7 say about inputs. A change here breaks pipelines of users.
#[test]
fn inputs_are_frozen() {
    let task = task_json();
    // Name, type, label, default, required, group, visible if.
    let expected = [
        ("awsCredentials", "connectedService:AWS", "AWS Credentials", json!(""), false, "", ""),
        ("regionName", "pickList", "AWS Region", json!(""), false, "", ""),
        ("imageSource", "radio", "Image Identity", json!("imagename"), true, "", ""),
        ("sourceImageName", "string", "Source Image Name", json!(""), false, "", "imageSource = imagename"),
        ("sourceImageTag", "string", "Source Image Tag", json!("latest"), false, "", "imageSource = imagename"),
        ("sourceImageId", "string", "Source Image ID", json!(""), false, "", "imageSource = imageid"),
        ("repositoryName", "string", "Target Repository Name", json!(""), true, "", ""),
        ("pushTag", "string", "Target Repository Tag", json!("latest"), false, "", ""),
        ("autoCreateRepository", "boolean", "Create repository if it does not exist", json!(false), false, "", ""),
        (
            "forceDockerNamingConventions",
            "boolean",
            "Force repository name to follow Docker naming conventions",
            json!(false),
            false,
            "",
            "",
        ),
        ("removeDockerImage", "boolean", "Remove Docker image after ECR push", json!(false), false, "", ""),
        ("outputVariable", "string", "Image Tag Output Variable", json!(""), false, "output", ""),
        ("logRequest", "boolean", "Log Request", json!("false"), false, "diagnostic", ""),
        ("logResponse", "boolean", "Log Response", json!("false"), false, "diagnostic", ""),
    ];
    let inputs = task["inputs"].as_array().expect("inputs");
    // Further inputs may follow.
    for (input, (name, kind, label, default, required, group, visible)) in inputs.iter().zip(&expected) {
        assert_eq!(input["name"], *name);
        assert_eq!(input["type"], *kind, "{name}");
        assert_eq!(input["label"], *label, "{name}");
        assert_eq!(input["defaultValue"], *default, "{name}");
        assert_eq!(input["required"], *required, "{name}");
        assert_eq!(input["groupName"].as_str().unwrap_or_default(), *group, "{name}");
        assert_eq!(input["visibleRule"].as_str().unwrap_or_default(), *visible, "{name}");
        assert!(input["helpMarkDown"].as_str().is_some_and(|help| help.len() > 20), "{name} has no help");
    }
    assert!(inputs.len() >= expected.len());
    assert_eq!(
        inputs[2]["options"],
        json!({ "imagename": "Image name with optional tag", "imageid": "Image ID" }),
        "imageSource"
    );
    assert_eq!(inputs[1]["properties"]["EditableOptions"], "True", "regionName");
    assert_eq!(inputs[2]["properties"]["EditableOptions"], "False", "imageSource");
}

/// Statement 2.
#[test]
fn task_stands_where_users_look_for_it() {
    let task = task_json();
    assert_eq!(task["name"], "EcrPush");
    assert_eq!(task["category"], "Deploy");
    assert_eq!(task["visibility"], json!(["Build", "Release"]));
    assert_eq!(task["minimumAgentVersion"], "2.144.0");
    assert_eq!(task["instanceNameFormat"], "Push Image: ");
    assert_eq!(task["version"]["Major"], 1, "pipelines say @1, as they did with ECRPushImage");
    assert_eq!(
        task["groups"],
        json!([
            { "name": "output", "displayName": "Output", "isExpanded": false },
            { "name": "diagnostic", "displayName": "Diagnostic", "isExpanded": false },
            { "name": "transfer", "displayName": "Image and Transfer", "isExpanded": false },
        ])
    );
    let handlers: Vec<_> = task["execution"].as_object().expect("handlers").iter().collect();
    assert_eq!(
        handlers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["Node10", "Node16", "Node20_1", "Node24"]
    );
    assert!(handlers.iter().all(|(_, handler)| handler["target"] == "index.js"));
    // A variable listed there becomes an output, and `$(name)` stays empty: the task refuses these names for the user's own.
    let outputs: Vec<_> = task["outputVariables"].as_array().expect("outputs").iter().map(|one| &one["name"]).collect();
    assert_eq!(outputs, ["digest", "uri", "tags"]);
    // IDs are for ever.
    assert_eq!(task["id"], "9b9fe3ac-4a87-42f5-9044-d248b92bf6b1");
    let legacy = json!({ "id": "a8b67a68-cafa-4a67-bb06-cc81c0501575", "name": "ECRPushImage" });
    assert_eq!(read_json(&extension("legacy-name/task.json")), legacy);
}

/// The AWS CLI's own list is the judge.
#[test]
fn every_region_of_ecr_can_be_picked() {
    if !parts::present(&[]) {
        return;
    }
    let aws = std::fs::canonicalize(parts::find("aws").expect("the AWS CLI")).expect("a path");
    let libraries = aws.parent().and_then(Path::parent).expect("a folder").join("lib");
    let known = std::fs::read_dir(&libraries).into_iter().flatten().flatten().find_map(|python| {
        let packages = python.path().join("site-packages");
        let tables = ["awscli/botocore", "botocore"].map(|folder| packages.join(folder).join("data/endpoints.json"));
        tables.into_iter().find(|table| table.is_file())
    });
    let known = read_json(&known.unwrap_or_else(|| panic!("no table of endpoints under {}", libraries.display())));
    let options = task_json()["inputs"][1]["options"].as_object().expect("options").clone();
    let mut count = 0;
    for partition in known["partitions"].as_array().expect("partitions") {
        let regions = partition["regions"].as_object().expect("regions");
        let service = partition["services"]["api.ecr"]["endpoints"].as_object().expect("ECR is everywhere");
        for region in service.keys().filter(|name| regions.contains_key(*name)) {
            let title = options.get(region).unwrap_or_else(|| panic!("{region} cannot be picked"));
            assert!(title.as_str().is_some_and(|title| title.ends_with(&format!(" [{region}]"))), "{title}");
            count += 1;
        }
    }
    assert_eq!(options.len(), count, "a region that the AWS CLI does not know");
}

/// A task reads these fields of a connection. The AWS Toolkit's type has the same.
#[test]
fn fields_of_the_connection_are_frozen() {
    let manifest = read_json(&extension("connection/vss-extension.json"));
    let kind = &manifest["contributions"][0]["properties"];
    assert_eq!(kind["name"], "AWS");
    let schemes = kind["authenticationSchemes"].as_array().expect("schemes");
    assert_eq!(schemes.len(), 1);
    assert_eq!(schemes[0]["type"], "ms.vss-endpoint.endpoint-auth-scheme-basic");
    let fields = schemes[0]["inputDescriptors"].as_array().expect("fields").iter();
    let fields = fields.map(|field| {
        assert_eq!(field["validation"]["isRequired"], false);
        (
            field["id"].as_str().expect("an id"),
            field["isConfidential"] == true,
            field["inputMode"].as_str().expect("a mode"),
        )
    });
    assert_eq!(
        fields.collect::<Vec<_>>(),
        [
            ("username", false, "textbox"),
            ("password", true, "passwordbox"),
            ("sessionToken", true, "passwordbox"),
            ("assumeRoleArn", false, "textbox"),
            ("roleSessionName", false, "textbox"),
            ("externalId", false, "textbox"),
            ("useOIDC", false, "checkbox"),
        ]
    );
}

#[test]
fn script_starts_the_program_and_changes_nothing() {
    let Some(space) = space("shim") else {
        return;
    };
    for node in NODES {
        let task = unpack(&space, node, stand_in());
        let step = Step::new(&space, &task, node)
            .input("repositoryName", "team/app")
            .connection(
                "3b5f0d9e-98a7-4e5e-8c4a-5d3f0a5a9a01",
                &[("username", "AKIA"), ("password", "a ]=;%\" secret")],
            )
            .secret("AWS.SecretAccessKey", "zwei\nZeilen")
            .env("EMPTY", "")
            .env("Lower.case-and-more", "größe");
        let run = step.run();
        assert_eq!(run.status, Some(0), "{run}");
        assert_eq!(run.stderr, "", "{run}");
        let said: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}\n{run}"));
        assert_eq!(said["words"], json!(["azure-task", "--parent-pipe"]));
        assert_eq!(said["program"], task.join("bin/linux-x64/ecr-push").display().to_string(), "not a copy");
        let given: BTreeMap<_, _> = said["environment"]
            .as_array()
            .expect("an environment")
            .iter()
            .filter_map(|entry| entry.as_str()?.split_once('='))
            .collect();
        let environment = step.environment();
        for (name, value) in &environment {
            assert_eq!(given.get(name.as_str()), Some(&value.as_str()), "{name} on {node}");
        }
        // What the space itself sets.
        let added =
            given.keys().filter(|name| !environment.contains_key(**name) && !["PATH", "HOME", "TMPDIR"].contains(name));
        assert_eq!(added.collect::<Vec<_>>(), [] as [&&str; 0]);
    }
}

#[test]
fn script_passes_the_exit_code() {
    let Some(space) = space("shim") else {
        return;
    };
    for node in NODES {
        let task = unpack(&space, node, stand_in());
        for status in [0, 1, 101] {
            let run = Step::new(&space, &task, node).env("STAND_IN", &format!("exit {status}")).run();
            assert_eq!(run.status, Some(status), "{run}");
            // A program that says itself what came of it has ended with 0.
            assert_eq!(run.result(), if status == 0 { "Succeeded" } else { "Failed" }, "{run}");
        }
    }
}

#[test]
fn program_that_a_signal_ended_fails_the_task() {
    let Some(space) = space("shim") else {
        return;
    };
    let task = unpack(&space, "task", stand_in());
    for node in NODES {
        // The agent adds a hint about memory to 137.
        for (signal, status) in [("SIGKILL", 137), ("SIGSEGV", 139)] {
            let run = Step::new(&space, &task, node).env("STAND_IN", &format!("die {signal}")).run();
            assert_eq!((run.status, run.result(), run.succeeded), (Some(status), "Failed", false), "{run}");
            assert!(run.issues("error")[0].contains(signal), "{run}");
        }
    }
}

#[test]
fn script_runs_a_copy_where_the_folder_cannot_be_written() {
    let Some(space) = space("shim") else {
        return;
    };
    let task = unpack(&space, "task", stand_in());
    // As an agent may mount the tasks into a container. Permissions alone would not stop root.
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    space.command("sh").args(["-c", mount, "sh"]).arg(&task).run().ok();
    for node in NODES {
        let run = Step::new(&space, &task, node).run();
        assert_eq!(run.status, Some(0), "{run}");
        let said: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}\n{run}"));
        let temporary = space.path("agent/_temp");
        assert!(said["program"].as_str().is_some_and(|it| Path::new(it).starts_with(&temporary)), "{run}");
        assert_eq!(std::fs::read_dir(&temporary).expect("a folder").count(), 0, "the copy is still there");
    }
}

#[test]
fn machine_without_a_program_is_told() {
    let Some(space) = space("shim") else {
        return;
    };
    let missing = unpack(&space, "missing", "");
    std::fs::rename(missing.join("bin/linux-x64"), missing.join("bin/win32-x64")).expect("a folder");
    let broken = unpack(&space, "broken", "#!/nowhere\n");
    for node in NODES {
        for (task, text) in [(&missing, "no program for linux-x64"), (&broken, "could not be started")] {
            let run = Step::new(&space, task, node).run();
            assert_eq!((run.status, run.result(), run.succeeded), (Some(0), "Failed", false), "{run}");
            assert_eq!(run.stderr, "", "{run}");
            let (errors, _) = run.counted();
            assert!(errors.len() == 1 && errors[0].contains(text), "{run}");
        }
    }
}

/// The test runner and its parser judge what the program says; the rest of [`agent::Run`] follows what an agent does.
#[test]
fn damaged_program_fails_the_task() {
    let Some(space) = space("shim") else {
        return;
    };
    // A shell would run each of these, and end with 0 or say something that no agent understands.
    for (name, program) in [("empty", &b""[..]), ("text", b"exit 0\n"), ("cut", b"\x7fELF\x02\x01\x01")] {
        let task = unpack(&space, name, program);
        for node in NODES {
            let run = Step::new(&space, &task, node).run();
            assert_eq!(run.result(), "Failed", "{name} on {node}: {run}");
            assert_eq!(run.issues("error").len(), 1, "{name} on {node}: {run}");
        }
    }
}

#[test]
fn agent_reads_what_the_program_says() {
    let Some(space) = space("shim") else {
        return;
    };
    let task = unpack(&space, "task", stand_in());
    let says = [
        "plain text",
        "##vso[task.setsecret]hidden-thing",
        "##vso[task.setvariable variable=image;isoutput=false;]host/team/app:1",
        "before ##vso[task.issue type=warning;]50%AZP25 done%0Ano more",
        "##vso[task.logissue type=error;code=a%3Bb%5D;]wrong",
        "##vso[task.complete result=SucceededWithIssues;]not all",
        "##vso[task.complete result=Succeeded;]",
    ];
    let step = Step::new(&space, &task, "node20").env("STAND_IN", &format!("say {}", says.join("\n")));
    let run = step.job_token("job-token").without("AGENT_JOBSTATUS").run();
    assert!(run.succeeded, "{run}");
    assert_eq!(run.result(), "SucceededWithIssues", "{run}");
    assert_eq!(run.issues("warning"), ["50% done\nno more"], "{run}");
    assert_eq!(run.issues("error"), ["wrong"], "{run}");
    assert_eq!(run.named("task.logissue")[0].properties["code"], "a;b]", "{run}");
    assert_eq!(run.counted(), (&[][..], &["50% done\nno more".to_owned()][..]), "{run}");
    assert_eq!(run.variable("image"), Some("host/team/app:1"), "{run}");
    assert!(run.stdout.contains("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN=job-token"), "{run}");
    assert!(!run.stdout.contains("AGENT_JOBSTATUS"), "{run}");
    run.hides("another thing");
    for shown in ["plain text", "job-token"] {
        assert!(std::panic::catch_unwind(|| run.hides(shown)).is_err(), "{shown} is shown");
    }
}

/// Starts the task, waits until the program is ready, sends signals to the script alone as an agent does, each when the one before has
/// arrived, and waits for the end.
const SIGNALS: &str = r#"
set -m
notes=$1; shift
expected=$1; shift
signals=$1; shift
: >"$notes"
"$@" </dev/null &
task=$!
until grep -qx ready "$notes"; do sleep 0.02; done
for signal in $signals; do
  lines=$(wc -l <"$notes")
  kill -s "$signal" "$task"
  until [ "$(wc -l <"$notes")" -gt "$lines" ]; do sleep 0.02; done
done
wait "$task"
echo "status $?"
until grep -qx "$expected" "$notes"; do sleep 0.02; done
"#;

fn signal(step: &Step<'_>, notes: &Path, expected: &str, signals: &str) -> (String, String) {
    let outcome = step.program("bash").args(["-c", SIGNALS, "bash"]).arg(notes).args([expected, signals]);
    let outcome = outcome.args(step.words()).limit(std::time::Duration::from_secs(30)).run();
    let notes = std::fs::read_to_string(notes).expect("notes");
    (outcome.lines().last().map(|line| (*line).to_owned()).unwrap_or_else(|| panic!("{outcome}")), notes)
}

#[test]
fn script_passes_signals_and_waits() {
    let Some(space) = space("shim") else {
        return;
    };
    let task = unpack(&space, "task", stand_in());
    let notes = space.path("notes");
    for node in NODES {
        let step = Step::new(&space, &task, node).env("STAND_IN", &format!("wait {}", notes.display()));
        let (last, noted) = signal(&step, &notes, "SIGTERM", "INT TERM");
        assert_eq!((last.as_str(), noted.as_str()), ("status 7", "ready\nSIGINT\nSIGTERM\n"), "{node}");
        let (last, noted) = signal(&step, &notes, "SIGTERM", "HUP TERM");
        assert_eq!((last.as_str(), noted.as_str()), ("status 7", "ready\nSIGHUP\nSIGTERM\n"), "{node}");
    }
}

#[test]
fn program_learns_that_the_script_was_killed() {
    let Some(space) = space("shim") else {
        return;
    };
    let task = unpack(&space, "task", stand_in());
    let notes = space.path("notes");
    for node in NODES {
        let step = Step::new(&space, &task, node).env("STAND_IN", &format!("wait {}", notes.display()));
        let (last, noted) = signal(&step, &notes, "end of input", "KILL");
        assert_eq!((last.as_str(), noted.as_str()), ("status 137", "ready\nend of input\n"), "{node}");
    }
}

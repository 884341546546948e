//! The task's inputs, as pipelines of Amazon's "Amazon ECR Push" task write them. Each test is named after its statement in
//! docs/azure-pipelines.md: `k` is kept, `f` is mended.
#![cfg(unix)]

mod common;

use common::agent::{CONNECTION, INPUTS};
use common::engine::{IMAGE, RecordedEngine};
use common::{APP, Stand};

const TASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations/azure-pipelines/EcrPush/task.json");

/// What the agent knows of the task. The tests of the extension look at all of it; these at what the statements say.
fn task_json() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(TASK).unwrap()).unwrap()
}

#[test]
fn k01_no_input_has_vanished_or_has_another_default() {
    let task = task_json();
    let inputs = task["inputs"].as_array().unwrap();
    let types = [
        ("awsCredentials", "connectedService:AWS"),
        ("regionName", "pickList"),
        ("imageSource", "radio"),
        ("sourceImageName", "string"),
        ("sourceImageTag", "string"),
        ("sourceImageId", "string"),
        ("repositoryName", "string"),
        ("pushTag", "string"),
        ("autoCreateRepository", "boolean"),
        ("forceDockerNamingConventions", "boolean"),
        ("removeDockerImage", "boolean"),
        ("outputVariable", "string"),
        ("logRequest", "boolean"),
        ("logResponse", "boolean"),
    ];
    for ((name, default), (expected, kind)) in INPUTS.iter().zip(types) {
        assert_eq!(*name, expected);
        let input = inputs.iter().find(|input| input["name"] == *name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(input["type"], kind, "{name}");
        // The agent gives every default as text, a boolean in any case.
        let given = input["defaultValue"].as_str().map_or_else(|| input["defaultValue"].to_string(), str::to_owned);
        assert_eq!(given, *default, "{name}");
        assert_eq!(input["required"] == true, ["imageSource", "repositoryName"].contains(name), "{name}");
    }
    // A region that the list does not have can be typed (statement 64).
    assert_eq!(inputs[1]["properties"]["EditableOptions"], "True");
    // What is declared is what the tests give, and what upstream lacks comes behind, may be left out, and has our defaults.
    assert_eq!(inputs.len(), INPUTS.len());
    for (input, (name, default)) in inputs.iter().zip(INPUTS).skip(types.len()) {
        assert_eq!(input["name"], name);
        assert_eq!(input["defaultValue"], default, "{name}");
        assert_eq!(input["required"], false, "{name}");
        assert_eq!(input["groupName"], "transfer", "{name}");
    }
}

#[test]
fn k02_the_task_stands_where_upstreams_does() {
    let task = task_json();
    assert_ne!(task["name"], "ECRPushImage", "the task has a name of its own");
    assert_eq!(task["category"], "Deploy");
    assert_eq!(task["visibility"], serde_json::json!(["Build", "Release"]));
    assert_eq!(task["minimumAgentVersion"], "2.144.0");
    assert_eq!(task["instanceNameFormat"], "Push Image: ");
    for handler in ["Node10", "Node20_1"] {
        assert!(task["execution"][handler]["target"].is_string(), "{handler}");
    }
    // The newest comes first.
    let text = std::fs::read_to_string(TASK).unwrap();
    let at = |handler: &str| text.find(&format!("\"{handler}\": {{")).unwrap_or_else(|| panic!("no {handler}"));
    assert!(["Node24", "Node20_1", "Node16", "Node10"].map(at).is_sorted());
    let outputs: Vec<_> = task["outputVariables"].as_array().unwrap().iter().map(|output| &output["name"]).collect();
    assert_eq!(outputs, ["digest", "uri", "tags"]);
    let groups: Vec<_> =
        task["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(groups, ["output", "diagnostic", "transfer"]);
}

#[test]
fn f07_the_field_for_the_id_is_seen_when_the_id_is_chosen() {
    let task = task_json();
    let inputs = task["inputs"].as_array().unwrap();
    let options = inputs.iter().find(|input| input["name"] == "imageSource").unwrap()["options"].as_object().unwrap();
    for (name, option) in
        [("sourceImageName", "imagename"), ("sourceImageTag", "imagename"), ("sourceImageId", "imageid")]
    {
        let input = inputs.iter().find(|input| input["name"] == name).unwrap();
        assert_eq!(input["visibleRule"], format!("imageSource = {option}"));
        assert!(options.contains_key(option));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k03_booleans_are_true_only_for_true() {
    let engine = RecordedEngine::start();
    for (value, created) in [
        ("true", true),
        ("True", true),
        ("TRUE", true),
        (" true ", true),
        ("1", false),
        ("yes", false),
        ("on", false),
        ("", false),
        ("false", false),
        ("truee", false),
    ] {
        let stand = Stand::new().await;
        let task = stand.task(&engine).input("repositoryName", "new/app").input("autoCreateRepository", value);
        let job = task.job().await;
        assert_eq!(stand.server.repository("new/app").is_some(), created, "`{value}`:\n{}", job.run.stdout);
        assert_eq!(job.completed().0, if created { "Succeeded" } else { "Failed" }, "`{value}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k04_a_missing_required_input_is_named_before_any_call() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    for name in ["imageSource", "repositoryName"] {
        for value in ["", "  "] {
            let job = stand.task(&engine).input(name, value).job().await;
            assert!(job.failed().starts_with(&format!("Input required: {name}")), "{}", job.run.stdout);
        }
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k05_imagename_needs_a_name_and_an_empty_tag_is_latest() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).input("sourceImageName", "").job().await;
    assert!(job.failed().starts_with("Input required: sourceImageName"), "{}", job.run.stdout);
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
    engine.name("two:latest");
    let job = stand.task(&engine).input("sourceImageTag", "").job().await.succeeded();
    job.says(&["Pushing image 'two:latest'"]);
    assert!(engine.asked().contains(&"GET /images/two:latest/json".to_owned()), "{:?}", engine.asked());
    // The word is compared with its case.
    let job = stand.task(&engine).input("imageSource", "imageName").job().await;
    assert!(job.failed().contains("`imageName`"), "{}", job.run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn k06_imageid_in_any_case_needs_an_id() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    for word in ["imageid", "imageId", "IMAGEID"] {
        let job = stand.task(&engine).input("imageSource", word).job().await;
        assert!(job.failed().starts_with("Input required: sourceImageId"), "{}", job.run.stdout);
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
    for id in [IMAGE, &IMAGE["sha256:".len()..], &IMAGE["sha256:".len()..][..12]] {
        let job = stand.task_by_id(&engine).input("sourceImageId", id).input("sourceImageName", "").job().await;
        job.succeeded().says(&[&format!("Pushing image with ID '{id}'")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_an_unknown_image_source_fails_and_is_not_taken_for_an_id() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task_by_id(&engine).input("imageSource", "image").job().await;
    let error = job.failed();
    for word in ["`imageSource` is `image`", "`imagename`", "`imageid`"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_the_image_source_leaves_unused_are_not_judged() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let unused = stand.task_by_id(&engine).input("sourceImageName", "$(name)").input("sourceImageTag", "$(tag)");
    unused.job().await.succeeded();
    stand.task(&engine).input("sourceImageId", "$(id)").job().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn k08_a_name_that_has_a_tag_gets_another_and_is_refused_with_the_reason() {
    let engine = RecordedEngine::start();
    engine.name("my:app");
    let stand = Stand::new().await;
    let job = stand.task(&engine).input("sourceImageName", "my:app").input("sourceImageTag", "t").job().await;
    let error = job.failed();
    assert!(error.starts_with("`my:app:t`, made of `sourceImageName` and `sourceImageTag`, is not"), "{error}");
    assert!(error.contains("leave `app` out of `sourceImageName`"), "{error}");
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_name_never_carries_a_transport() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    for (name, id) in [("docker-archive:/etc/passwd", ""), ("oci:/tmp", ""), ("", "docker-archive:/etc/passwd")] {
        let source = if id.is_empty() { "imagename" } else { "imageid" };
        let task = stand.task(&engine).input("imageSource", source).input("sourceImageName", name);
        task.input("sourceImageId", id).job().await.failed();
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k09_an_empty_push_tag_pushes_latest_and_the_variable_has_no_tag() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).input("pushTag", "").input("outputVariable", "pushed").job().await.succeeded();
    assert!(stand.tag("latest").is_some());
    assert_eq!(stand.server.repository(APP).unwrap().tags.len(), 1);
    assert_eq!(job.variables()[0], ("pushed", "false", stand.uri().as_str()));
    // Left out is something else: the agent gives the default.
    let job = stand.task(&engine).without("INPUT_PUSHTAG").input("outputVariable", "pushed").job().await.succeeded();
    assert_eq!(job.variables()[0].2, format!("{}:latest", stand.uri()));
}

#[tokio::test(flavor = "multi_thread")]
async fn k09_the_tag_behind_the_repository_name_counts_where_push_tag_is_empty() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let named = format!("{APP}:9.9");
    let task = |tag: &str| stand.task(&engine).input("repositoryName", &named).input("pushTag", tag);
    let job = task("").input("outputVariable", "pushed").job().await.succeeded();
    assert_eq!(stand.server.repository(APP).unwrap().tags.keys().collect::<Vec<_>>(), ["9.9"]);
    assert_eq!(job.variables()[0], ("pushed", "false", format!("{}:9.9", stand.uri()).as_str()));
    // Upstream makes `app:9.9:v1` of it, which docker refuses. What is advised can be pasted.
    let error = task("v1").job().await;
    let error = error.failed();
    assert!(error.contains("holds a tag, and `pushTag` is not empty"), "{error}");
    assert!(error.contains(&format!("write `repositoryName: {APP}` and `pushTag: 9.9`")), "{error}");
    for (name, right) in [("app:", "app"), ("team/app@sha256:00", "team/app")] {
        let job = stand.task(&engine).input("repositoryName", name).input("pushTag", "").job().await;
        assert!(job.failed().contains(&format!("write `repositoryName: {right}`")), "{}", job.run.stdout);
    }
    // The naming rule deletes the colon, as upstream's does.
    let forced = task("").input("forceDockerNamingConventions", "true").input("autoCreateRepository", "true");
    forced.job().await;
    assert!(stand.server.repositories().contains(&"teamapp9.9".to_owned()), "{:?}", stand.server.repositories());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_tag_of_separators_is_not_taken_for_an_empty_one() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    for tags in [",", " , ,", ",\n,"] {
        let job = stand.task(&engine).input("pushTag", tags).job().await;
        assert!(job.failed().starts_with("`pushTag` holds separators and no tag"), "{}", job.run.stdout);
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_system_debug_every_input_is_shown_and_no_secret() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let task = || stand.task(&engine).secret_variable("My.Tag", "tag-of-secrets");
    let debug = task().input("pushTag", "tag-of-secrets").variable("System.Debug", "True").job().await.succeeded();
    let shown = debug.debug();
    for (name, _) in INPUTS {
        let count = shown.iter().filter(|line| line.starts_with(&format!("{name}="))).count();
        assert_eq!(count, 1, "{name} in {shown:#?}");
    }
    assert!(shown.contains(&"repositoryName=team/app") && shown.contains(&"pushTag=***"), "{shown:#?}");
    // Before anything can be wrong with them.
    let wrong = task().input("imageSource", "").variable("System.Debug", "true").job().await;
    wrong.failed();
    assert!(wrong.debug().contains(&"imageSource="), "{:#?}", wrong.debug());
    let quiet = task().job().await.succeeded();
    assert!(quiet.debug().iter().all(|line| !line.starts_with("repositoryName=")), "{:#?}", quiet.debug());
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_of_our_own_do_what_the_flags_do() {
    let engine = RecordedEngine::start();
    // An unknown word is refused with the input's name, before any call.
    let stand = Stand::new().await;
    for (name, value) in [
        ("attestations", "all"),
        ("compression", "brotli"),
        ("reuse", "all"),
        ("platform", "linux"),
        ("reuseFrom", "a b"),
        ("mountFrom", "team/app:1"),
    ] {
        let job = stand.task(&engine).input(name, value).job().await;
        let error = job.failed();
        assert!(error.contains(&format!("`{value}`")) && error.contains(name) && !error.contains("--"), "{error}");
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
    // Words in any case, empty values, and a cache folder of the job.
    let cache = stand.folder.path().join("cache");
    let task = stand.task(&engine).input("attestations", "Lambda").input("reuse", "").input("compression", "zstd:3");
    let job = task.input("platform", "linux/amd64").input("cacheFolder", cache.to_str().unwrap()).job().await;
    job.succeeded();
    assert!(std::fs::read_dir(&cache).unwrap().count() > 0);
    let layers = || -> Vec<String> {
        let manifest = &stand.server.repository(APP).unwrap().manifests[&stand.tag("v1").unwrap()];
        let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap_or_else(|| panic!("an image: {manifest}"));
        layers.iter().map(|layer| layer["mediaType"].as_str().unwrap().to_owned()).collect()
    };
    assert!(layers().iter().all(|kind| kind.ends_with("+zstd")), "{:?}", layers());
    // These blobs take the place of layers, but not for AWS Lambda, of which nobody knows whether it reads them.
    stand.task(&engine).job().await.succeeded();
    assert!(layers().iter().all(|kind| kind.ends_with("+zstd")), "{:?}", layers());
    stand.task(&engine).input("attestations", "lambda").job().await.succeeded();
    assert!(layers().iter().all(|kind| !kind.ends_with("+zstd")), "{:?}", layers());
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_several_tags_come_by_line_or_by_comma() {
    for tags in ["v1,v2,latest", "v1\nv2\nlatest", " v1 ,\r\n v2\n\nlatest\n", "v1, v2,, latest, v1"] {
        let engine = RecordedEngine::start();
        let stand = Stand::new().await;
        let job = stand.task(&engine).input("pushTag", tags).input("outputVariable", "pushed").job().await.succeeded();
        let pushed = stand.server.repository(APP).unwrap().tags;
        assert_eq!(pushed.keys().collect::<Vec<_>>(), ["latest", "v1", "v2"], "{tags:?}");
        assert!(pushed.values().all(|digest| *digest == pushed["v1"]));
        // The variable has one reference, the first; the others are an output.
        assert_eq!(job.variables()[0].2, format!("{}:v1", stand.uri()));
        assert!(job.variables().contains(&("tags", "true", "v1,v2,latest")), "{:?}", job.variables());
        let local: Vec<String> = ["latest", "v1", "v2"].map(|tag| format!("{}:{tag}", stand.uri())).into();
        assert!(local.iter().all(|name| engine.names().contains(name)), "{:?}", engine.names());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k11_inputs_come_first_then_credentials_then_the_engine_then_the_naming_rule() {
    let stand = Stand::new().await;
    let engine = RecordedEngine::start();
    let half = |task: common::Program| task.connection(&[("username", "AKIAIOSFODNN7EXAMPLE")]);
    let no_engine = format!("unix://{}/none.sock", stand.folder.path().display());
    // All is wrong: the input is told.
    let all = half(stand.task(&engine)).input("imageSource", "").env("DOCKER_HOST", &no_engine);
    assert!(all.job().await.failed().starts_with("Input required: imageSource"));
    // Credentials and engine are wrong: the credentials are told, and nobody was asked.
    let both = half(stand.task(&engine)).env("DOCKER_HOST", &no_engine);
    assert!(both.job().await.failed().starts_with("Need to define or omit both"));
    assert!(stand.server.requests().is_empty());
    // Only the engine is wrong: that is told.
    let job = stand.task(&engine).env("DOCKER_HOST", &no_engine).job().await;
    assert!(job.failed().contains("none.sock"), "{}", job.run.stdout);
    // All is right: the log has them in this order.
    let task = stand.task(&engine).connection(&[]).input("repositoryName", "a/b");
    let task = task.input("forceDockerNamingConventions", "true").input("autoCreateRepository", "true");
    let job = task.job().await;
    let credentials = format!("...configuring AWS credentials from service endpoint '{CONNECTION}'");
    let lines = ["Configuring credentials for task", &credentials, "type=warning;]", "Pushing image 'two:1'"];
    let at: Vec<usize> = lines.iter().map(|text| job.line_of(text)).collect();
    assert!(at.is_sorted(), "{at:?}\n{}", job.run.stdout);
}

//! Manifests, tags and referrers at the registry door.

mod common;

use common::*;
use local_ecr::{Config, Limits, Mutability};
use serde_json::{Value, json};

const INVALID: &str = "Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'Invalid JSON syntax'";

async fn refusal(ecr: &Ecr, media_type: &str, manifest: &Value) -> (u16, String, String) {
    error_of(ecr.put_manifest("v1", media_type, manifest.to_string()).await).await
}

#[tokio::test]
async fn a_manifest_is_stored_byte_for_byte_without_a_location() {
    let ecr = ecr().await;
    let bytes = format!("\n{}  ", ecr.image("a").await);
    let response = ecr.put_manifest("v1", OCI_MANIFEST, bytes.clone()).await;
    assert_eq!(response.status(), 201);
    assert_eq!(header(&response, "location"), None);
    assert_eq!(header(&response, "docker-content-digest").unwrap(), digest(bytes.as_bytes()));
    let response = ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap();
    assert_eq!(header(&response, "content-type").unwrap(), OCI_MANIFEST);
    assert_eq!(response.text().await.unwrap(), bytes);
}

#[tokio::test]
async fn the_digest_header_can_be_left_out() {
    let ecr = start(Config { manifest_digest_header: false, ..Config::default() }).await;
    let manifest = ecr.image("a").await.to_string();
    let response = ecr.put_manifest("v1", OCI_MANIFEST, manifest).await;
    assert_eq!(header(&response, "docker-content-digest"), None);
}

#[tokio::test]
async fn head_tells_size_type_and_digest() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    let response = ecr.v2("HEAD", "team/app/manifests/v1").send().await.unwrap();
    assert_eq!(header(&response, "docker-content-digest").unwrap(), digest);
    assert!(header(&response, "content-length").unwrap().parse::<u64>().unwrap() > 100);
}

#[tokio::test]
async fn broken_json_is_unsupported() {
    let ecr = ecr().await;
    let answer = error_of(ecr.put_manifest("v1", OCI_MANIFEST, "{").await).await;
    assert_eq!(answer, error(405, "UNSUPPORTED", INVALID));
}

#[tokio::test]
async fn a_manifest_without_any_media_type_is_unsupported() {
    let ecr = ecr().await;
    let mut manifest = ecr.image("a").await;
    manifest.as_object_mut().unwrap().remove("mediaType");
    assert_eq!(refusal(&ecr, "application/json", &manifest).await, error(405, "UNSUPPORTED", INVALID));
}

#[tokio::test]
async fn the_content_type_can_stand_for_the_media_type() {
    let ecr = ecr().await;
    let mut manifest = ecr.image("a").await;
    manifest.as_object_mut().unwrap().remove("mediaType");
    assert_eq!(ecr.put_manifest("v1", OCI_MANIFEST, manifest.to_string()).await.status(), 201);
}

#[tokio::test]
async fn a_content_type_that_contradicts_is_unsupported() {
    let ecr = ecr().await;
    let manifest = ecr.image("a").await;
    assert_eq!(refusal(&ecr, OCI_INDEX, &manifest).await, error(405, "UNSUPPORTED", INVALID));
}

#[tokio::test]
async fn a_media_type_with_a_parameter_is_unsupported() {
    let ecr = ecr().await;
    let good = ecr.image("a").await;
    let bundle = "application/vnd.dev.sigstore.bundle+json;version=0.2";
    let mut layer = good.clone();
    layer["layers"][0]["mediaType"] = bundle.into();
    let mut artifact = good.clone();
    artifact["artifactType"] = bundle.into();
    for manifest in [layer, artifact] {
        assert_eq!(refusal(&ecr, OCI_MANIFEST, &manifest).await, error(405, "UNSUPPORTED", INVALID));
    }
}

#[tokio::test]
async fn more_than_500_layers_are_unsupported() {
    let ecr = ecr().await;
    let mut manifest = ecr.image("a").await;
    manifest["layers"] = vec![manifest["layers"][0].clone(); 501].into();
    let sentence = "Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'Limit on number of layers per \
                    image exceeded'";
    assert_eq!(refusal(&ecr, OCI_MANIFEST, &manifest).await, error(405, "UNSUPPORTED", sentence));
}

#[tokio::test]
async fn a_manifest_over_4_mib_is_unsupported() {
    let ecr = ecr().await;
    let mut manifest = ecr.image("a").await;
    manifest["annotations"] = json!({ "a": "x".repeat(4 * MIB) });
    let (status, code, _) = refusal(&ecr, OCI_MANIFEST, &manifest).await;
    assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
}

#[tokio::test]
async fn layers_must_be_in_this_repository() {
    let ecr = ecr().await;
    ecr.create_repository("other", Mutability::mutable()).unwrap();
    let manifest = ecr.image("a").await;
    let response = ecr.v2("PUT", "other/manifests/v1").header("content-type", OCI_MANIFEST).body(manifest.to_string());
    let (status, code, message) = error_of(response.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert!(message.contains(&digest(b"layer a")), "{message}");
}

#[tokio::test]
async fn foreign_layers_may_stay_away() {
    let ecr = ecr().await;
    let mut manifest = ecr.image("a").await;
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    manifest["layers"][0]["digest"] = digest(b"far away").into();
    assert_eq!(ecr.put_manifest("v1", OCI_MANIFEST, manifest.to_string()).await.status(), 201);
}

fn index(child: &str) -> Value {
    let child = json!({ "mediaType": OCI_MANIFEST, "digest": child, "size": 1 });
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] })
}

#[tokio::test]
async fn children_must_be_in_this_repository() {
    let ecr = ecr().await;
    let (status, code, message) = refusal(&ecr, OCI_INDEX, &index(&digest(b"absent"))).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert!(message.starts_with("Images with digests"), "{message}");
    let child = ecr.push_image("child").await;
    assert_eq!(ecr.put_manifest("v1", OCI_INDEX, index(&child).to_string()).await.status(), 201);
}

#[tokio::test]
async fn a_manifest_can_be_put_by_its_digest_only() {
    let ecr = ecr().await;
    let manifest = ecr.image("a").await.to_string();
    let wrong = ecr.put_manifest(&digest(b"other"), OCI_MANIFEST, manifest.clone()).await;
    assert_eq!(error_of(wrong).await.1, "DIGEST_INVALID");
    let right = ecr.put_manifest(&digest(manifest.as_bytes()), OCI_MANIFEST, manifest).await;
    assert_eq!(right.status(), 201);
    assert!(ecr.snapshot().tags.is_empty());
}

async fn mutability(mutability: Mutability) -> Ecr {
    let ecr = ecr().await;
    ecr.call("DeleteRepository", json!({ "repositoryName": REPOSITORY })).await;
    ecr.create_repository(REPOSITORY, mutability).unwrap();
    ecr
}

#[tokio::test]
async fn an_immutable_tag_is_refused_even_for_the_same_digest() {
    let ecr = mutability(Mutability::immutable()).await;
    ecr.push_image("v1").await;
    let same = ecr.image("v1").await;
    let sentence = "The image tag 'v1' already exists in the 'team/app' repository and cannot be overwritten because \
                    the tag is immutable.";
    assert_eq!(refusal(&ecr, OCI_MANIFEST, &same).await, error(400, "TAG_INVALID", sentence));
}

#[tokio::test]
async fn exclusions_free_a_tag() {
    let ecr = mutability(Mutability::immutable_except(&["dev-*"])).await;
    for (tag, status) in [("dev-1", 201), ("v1", 400)] {
        ecr.push_image(tag).await;
        let other = ecr.image(&format!("{tag} again")).await;
        assert_eq!(ecr.put_manifest(tag, OCI_MANIFEST, other.to_string()).await.status(), status, "{tag}");
    }
}

#[tokio::test]
async fn a_tag_moves_and_the_older_image_stays() {
    let ecr = ecr().await;
    let older = ecr.push_image("v1").await;
    let newer = ecr.image("newer").await.to_string();
    assert_eq!(ecr.put_manifest("v1", OCI_MANIFEST, newer.clone()).await.status(), 201);
    let snapshot = ecr.snapshot();
    assert_eq!(snapshot.tags["v1"], digest(newer.as_bytes()));
    assert!(snapshot.manifests.contains_key(&older));
}

#[tokio::test]
async fn the_same_push_twice_is_no_error() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    ecr.push_image("v1").await;
}

#[tokio::test]
async fn a_tag_outside_the_grammar_is_a_bad_request() {
    let ecr = ecr().await;
    for (method, tag) in [("HEAD", "v%2B1"), ("GET", "-a"), ("PUT", &"a".repeat(129))] {
        let response = ecr.v2(method, &format!("team/app/manifests/{tag}")).send().await.unwrap();
        assert_eq!(response.status(), 400, "{method} {tag}");
    }
}

#[tokio::test]
async fn an_absent_image_is_unknown() {
    let ecr = ecr().await;
    let answer = error_of(ecr.v2("GET", "team/app/manifests/nope").send().await.unwrap()).await;
    assert_eq!(answer, error(404, "MANIFEST_UNKNOWN", "Requested image not found"));
}

#[tokio::test]
async fn by_tag_the_type_is_converted_and_by_digest_never() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let read =
        |reference: &str| ecr.v2("GET", &format!("team/app/manifests/{reference}")).header("accept", docker).send();
    let converted = read("v1").await.unwrap();
    assert_eq!(header(&converted, "content-type").unwrap(), docker);
    assert_ne!(header(&converted, "docker-content-digest").unwrap(), digest);
    assert_eq!(json_of(converted).await["mediaType"], docker);
    assert_eq!(header(&read(&digest).await.unwrap(), "content-type").unwrap(), OCI_MANIFEST);
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let ecr = ecr().await;
    for tag in ["c", "a", "b"] {
        ecr.push_image(tag).await;
    }
    let first = ecr.v2("GET", "team/app/tags/list?n=2").send().await.unwrap();
    assert_eq!(header(&first, "link").unwrap(), "</v2/team/app/tags/list?n=2&last=b>; rel=\"next\"");
    assert_eq!(json_of(first).await, json!({ "name": "team/app", "tags": ["a", "b"] }));
    let second = ecr.v2("GET", "team/app/tags/list?n=2&last=b").send().await.unwrap();
    assert_eq!(json_of(second).await["tags"], json!(["c"]));
}

#[tokio::test]
async fn more_than_1000_tags_a_page_are_unsupported() {
    let ecr = ecr().await;
    let answer = error_of(ecr.v2("GET", "team/app/tags/list?n=1001").send().await.unwrap()).await;
    let sentence = "Invalid parameter at 'maxResults' failed to satisfy constraint: 'Member must have value less than \
                    or equal to 1000'";
    assert_eq!(answer, error(405, "UNSUPPORTED", sentence));
}

#[tokio::test]
async fn referrers_are_listed_by_their_subject() {
    let ecr = ecr().await;
    let subject = ecr.push_image("v1").await;
    let mut manifest = ecr.image("sbom").await;
    manifest["artifactType"] = "application/spdx+json".into();
    manifest["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": subject, "size": 1 });
    let response = ecr.put_manifest("sbom", OCI_MANIFEST, manifest.to_string()).await;
    assert_eq!(header(&response, "oci-subject").unwrap(), subject);
    let list = json_of(ecr.v2("GET", &format!("team/app/referrers/{subject}")).send().await.unwrap()).await;
    assert_eq!(list["manifests"][0]["artifactType"], "application/spdx+json");
    let other = format!("team/app/referrers/{subject}?artifactType=other");
    assert_eq!(json_of(ecr.v2("GET", &other).send().await.unwrap()).await["manifests"], json!([]));
}

#[tokio::test]
async fn an_image_is_deleted_by_digest_but_a_blob_cannot_be() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    let blob = format!("team/app/blobs/{}", common::digest(b"layer v1"));
    assert_eq!(ecr.v2("DELETE", &blob).send().await.unwrap().status(), 404);
    let response = ecr.v2("DELETE", &format!("team/app/manifests/{digest}")).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert!(ecr.snapshot().tags.is_empty());
}

#[tokio::test]
async fn an_archived_image_is_not_found_until_it_is_pushed_again() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    assert!(ecr.archive_image(REPOSITORY, &digest));
    assert_eq!(ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap().status(), 404);
    let layers = json!({ "repositoryName": REPOSITORY, "layerDigests": [common::digest(b"layer v1")] });
    let answer = ecr.call("BatchCheckLayerAvailability", layers).await;
    assert_eq!(answer["layers"][0]["layerAvailability"], "ARCHIVED");
    ecr.push_image("v1").await;
    assert_eq!(ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_image_has_only_so_many_tags() {
    let limits = Limits { tags_per_image: 1, ..Limits::default() };
    let ecr = start(Config { limits, ..Config::default() }).await;
    ecr.push_image("v1").await;
    let same = ecr.image("v1").await;
    let response = ecr.put_manifest("v2", OCI_MANIFEST, same.to_string()).await;
    assert_eq!(error_of(response).await.0, 405);
}

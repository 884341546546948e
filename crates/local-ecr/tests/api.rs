//! The API door.

mod common;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use common::*;
use local_ecr::{Config, Key, Limits, Rate};
use serde_json::{Value, json};

fn on(mut input: Value) -> Value {
    input["repositoryName"] = REPOSITORY.into();
    input
}

async fn upload(ecr: &Ecr) -> String {
    text(&ecr.call("InitiateLayerUpload", on(json!({}))).await["uploadId"])
}

fn part(upload: &str, first: u64, last: u64, bytes: &[u8]) -> Value {
    on(json!({
        "uploadId": upload,
        "partFirstByte": first,
        "partLastByte": last,
        "layerPartBlob": BASE64_STANDARD.encode(bytes),
    }))
}

fn complete(upload: &str, digest: &str) -> Value {
    on(json!({ "uploadId": upload, "layerDigests": [digest] }))
}

#[tokio::test]
async fn an_error_names_itself_in_body_and_header() {
    let ecr = ecr().await;
    let (date, authorization) = unsigned("A", "us-east-1", "ecr");
    let response = ecr
        .bare("POST", "/")
        .header("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.DescribeRepositories")
        .header("x-amz-date", date)
        .header("authorization", authorization)
        .body(r#"{"repositoryNames":["nope"]}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(header(&response, "x-amzn-errortype").unwrap(), "RepositoryNotFoundException");
    assert_eq!(header(&response, "content-type").unwrap(), "application/x-amz-json-1.1");
    assert!(header(&response, "x-amzn-requestid").is_some());
    let message = "The repository with name 'nope' does not exist in the registry with id '123456789012'";
    assert_eq!(json_of(response).await, json!({ "__type": "RepositoryNotFoundException", "message": message }));
}

#[tokio::test]
async fn an_unknown_target_is_an_unknown_operation() {
    assert_eq!(ecr().await.refused("Nonsense", json!({})).await.0, "UnknownOperationException");
}

#[tokio::test]
async fn an_unsigned_request_lacks_a_token() {
    let ecr = ecr().await;
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    let response = ecr.bare("POST", "/").header("x-amz-target", target).body("{}").send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(json_of(response).await["__type"], "MissingAuthenticationTokenException");
}

async fn with_a_key() -> Ecr {
    let key = Key { access_key_id: "AKIDALICE".into(), secret_access_key: "secret".into(), user: "alice".into() };
    start(Config { keys: vec![key], ..Config::default() }).await
}

#[tokio::test]
async fn with_keys_another_key_is_unrecognized() {
    let ecr = with_a_key().await;
    assert_eq!(ecr.refused("GetAuthorizationToken", json!({})).await.0, "UnrecognizedClientException");
}

#[tokio::test]
async fn with_keys_a_wrong_signature_is_invalid() {
    let mut ecr = with_a_key().await;
    ecr.key = "AKIDALICE".into();
    let (status, answer) = ecr.api("GetAuthorizationToken", json!({})).await;
    assert_eq!((status, text(&answer["__type"]).as_str()), (400, "InvalidSignatureException"));
}

#[tokio::test]
async fn a_repository_is_made_with_its_settings() {
    let ecr = ecr().await;
    let input = json!({
        "repositoryName": "a__b/c--d",
        "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION",
        "imageTagMutabilityExclusionFilters": [{ "filterType": "WILDCARD", "filter": "dev-*" }],
        "imageScanningConfiguration": { "scanOnPush": true },
        "encryptionConfiguration": { "encryptionType": "KMS", "kmsKey": "alias/k" },
        "tags": [{ "Key": "k", "Value": "v" }],
    });
    let made = ecr.call("CreateRepository", input.clone()).await["repository"].clone();
    for echoed in [
        "imageTagMutability",
        "imageTagMutabilityExclusionFilters",
        "imageScanningConfiguration",
        "encryptionConfiguration",
    ] {
        assert_eq!(made[echoed], input[echoed]);
    }
    assert_eq!(text(&made["repositoryArn"]), "arn:aws:ecr:us-east-1:123456789012:repository/a__b/c--d");
    assert_eq!(text(&made["repositoryUri"]), format!("{}/a__b/c--d", ecr.address()));
    let found = ecr.call("DescribeRepositories", json!({ "repositoryNames": ["a__b/c--d"] })).await;
    assert_eq!(found["repositories"], json!([made]));
}

#[tokio::test]
async fn a_repository_is_not_made_twice() {
    let (name, message) = ecr().await.refused("CreateRepository", on(json!({}))).await;
    assert_eq!(name, "RepositoryAlreadyExistsException");
    assert_eq!(message, "The repository with name 'team/app' already exists in the registry with id '123456789012'");
}

#[tokio::test]
async fn bad_settings_are_invalid_parameters() {
    let ecr = ecr().await;
    let filter = json!([{ "filterType": "WILDCARD", "filter": "a" }]);
    for input in [
        json!({ "repositoryName": "Bad" }),
        json!({ "repositoryName": "ok", "imageTagMutability": "SOMETIMES" }),
        json!({ "repositoryName": "ok", "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION" }),
        json!({ "repositoryName": "ok", "imageTagMutability": "IMMUTABLE", "imageTagMutabilityExclusionFilters": filter }),
        json!({ "repositoryName": "ok", "encryptionConfiguration": { "encryptionType": "ROT13" } }),
    ] {
        assert_eq!(ecr.refused("CreateRepository", input.clone()).await.0, "InvalidParameterException", "{input}");
    }
}

#[tokio::test]
async fn more_than_50_tags_are_too_many() {
    let tags = vec![json!({ "Key": "k", "Value": "v" }); 51];
    let input = json!({ "repositoryName": "ok", "tags": tags });
    assert_eq!(ecr().await.refused("CreateRepository", input).await.0, "TooManyTagsException");
}

#[tokio::test]
async fn the_account_has_only_so_many_repositories() {
    let limits = Limits { repositories: 1, ..Limits::default() };
    let ecr = start(Config { limits, ..Config::default() }).await;
    let input = json!({ "repositoryName": "second" });
    assert_eq!(ecr.refused("CreateRepository", input).await.0, "LimitExceededException");
}

#[tokio::test]
async fn one_unknown_name_fails_the_whole_description() {
    let input = json!({ "repositoryNames": [REPOSITORY, "nope"] });
    assert_eq!(ecr().await.refused("DescribeRepositories", input).await.0, "RepositoryNotFoundException");
}

#[tokio::test]
async fn repositories_are_described_in_pages() {
    let ecr = ecr().await;
    ecr.call("CreateRepository", json!({ "repositoryName": "zz" })).await;
    let first = ecr.call("DescribeRepositories", json!({ "maxResults": 1 })).await;
    assert_eq!(first["repositories"].as_array().unwrap().len(), 1);
    let second = ecr.call("DescribeRepositories", json!({ "maxResults": 1, "nextToken": first["nextToken"] })).await;
    assert_eq!(second["repositories"][0]["repositoryName"], "zz");
    assert_eq!(second["nextToken"], Value::Null);
    let refused = ecr.refused("DescribeRepositories", json!({ "maxResults": 1001 })).await;
    assert!(refused.1.contains("'maxResults'"));
}

#[tokio::test]
async fn a_repository_with_images_is_deleted_by_force_only() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    assert_eq!(ecr.refused("DeleteRepository", on(json!({}))).await.0, "RepositoryNotEmptyException");
    ecr.call("DeleteRepository", on(json!({ "force": true }))).await;
    assert!(ecr.repository(REPOSITORY).is_none());
}

#[tokio::test]
async fn mutability_can_be_changed() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    ecr.call("PutImageTagMutability", on(json!({ "imageTagMutability": "IMMUTABLE" }))).await;
    let manifest = ecr.image("other").await.to_string();
    let put = ecr.refused("PutImage", on(json!({ "imageManifest": manifest, "imageTag": "v1" }))).await;
    assert_eq!(put.0, "ImageTagAlreadyExistsException");
}

#[tokio::test]
async fn an_absent_layer_is_unavailable_and_no_failure() {
    let ecr = ecr().await;
    let there = ecr.push_blob(b"there").await;
    let input = on(json!({ "layerDigests": [there, digest(b"absent"), "sha256:zz"] }));
    let answer = ecr.call("BatchCheckLayerAvailability", input).await;
    assert_eq!(answer["layers"][0]["layerAvailability"], "AVAILABLE");
    assert_eq!(answer["layers"][0]["layerSize"], 5);
    assert_eq!(answer["layers"][1]["layerAvailability"], "UNAVAILABLE");
    assert_eq!(answer["failures"][0]["failureCode"], "InvalidLayerDigest");
}

#[tokio::test]
async fn more_than_100_digests_are_refused() {
    let input = on(json!({ "layerDigests": vec![digest(b"x"); 101] }));
    assert_eq!(ecr().await.refused("BatchCheckLayerAvailability", input).await.0, "InvalidParameterException");
}

#[tokio::test]
async fn a_layer_goes_up_in_parts() {
    let ecr = ecr().await;
    let answer = ecr.call("InitiateLayerUpload", on(json!({}))).await;
    assert_eq!(answer["partSize"], 10_485_760);
    let upload = text(&answer["uploadId"]);
    let bytes = vec![3_u8; 6 * MIB];
    let last = 6 * MIB as u64 - 1;
    let answer = ecr.call("UploadLayerPart", part(&upload, 0, last, &bytes)).await;
    assert_eq!(answer["lastByteReceived"], last);
    ecr.call("UploadLayerPart", part(&upload, last + 1, last + 2, b"hi")).await;
    let digest = digest(&[bytes.as_slice(), b"hi"].concat());
    assert_eq!(text(&ecr.call("CompleteLayerUpload", complete(&upload, &digest)).await["layerDigest"]), digest);
}

#[tokio::test]
async fn a_part_out_of_order_tells_the_last_valid_byte() {
    let ecr = ecr().await;
    let upload = upload(&ecr).await;
    ecr.call("UploadLayerPart", part(&upload, 0, 4, b"hello")).await;
    let (status, answer) = ecr.api("UploadLayerPart", part(&upload, 9, 9, b"x")).await;
    assert_eq!((status, text(&answer["__type"]).as_str()), (400, "InvalidLayerPartException"));
    assert_eq!(answer["lastValidByteReceived"], 4);
    assert_eq!(answer["uploadId"], upload);
}

#[tokio::test]
async fn a_part_of_another_length_is_refused() {
    let ecr = ecr().await;
    let upload = upload(&ecr).await;
    assert_eq!(ecr.refused("UploadLayerPart", part(&upload, 0, 9, b"x")).await.0, "InvalidLayerPartException");
}

#[tokio::test]
async fn a_part_over_the_maximum_is_refused() {
    let limits = Limits { max_part_bytes: 4, ..Limits::default() };
    let ecr = start(Config { limits, ..Config::default() }).await;
    let upload = upload(&ecr).await;
    assert_eq!(ecr.refused("UploadLayerPart", part(&upload, 0, 4, b"hello")).await.0, "InvalidLayerPartException");
}

#[tokio::test]
async fn an_unknown_upload_is_not_found() {
    let input = part("0b7e7e0a-0000-4000-a000-000000000000", 0, 0, b"x");
    assert_eq!(ecr().await.refused("UploadLayerPart", input).await.0, "UploadNotFoundException");
}

#[tokio::test]
async fn a_small_part_is_refused_at_completion() {
    let ecr = ecr().await;
    let upload = upload(&ecr).await;
    ecr.call("UploadLayerPart", part(&upload, 0, 0, b"a")).await;
    ecr.call("UploadLayerPart", part(&upload, 1, 1, b"b")).await;
    let refused = ecr.refused("CompleteLayerUpload", complete(&upload, &digest(b"ab"))).await;
    assert_eq!(refused.0, "LayerPartTooSmallException");
}

#[tokio::test]
async fn an_empty_upload_cannot_be_completed() {
    let ecr = ecr().await;
    let upload = upload(&ecr).await;
    let refused = ecr.refused("CompleteLayerUpload", complete(&upload, &digest(b""))).await;
    assert_eq!(refused.0, "EmptyUploadException");
}

#[tokio::test]
async fn a_wrong_digest_is_an_invalid_layer() {
    let ecr = ecr().await;
    let upload = upload(&ecr).await;
    ecr.call("UploadLayerPart", part(&upload, 0, 0, b"a")).await;
    let refused = ecr.refused("CompleteLayerUpload", complete(&upload, &digest(b"b"))).await;
    assert_eq!(refused.0, "InvalidLayerException");
}

#[tokio::test]
async fn a_layer_that_is_there_already_exists() {
    let ecr = ecr().await;
    let digest = ecr.push_blob(b"a").await;
    let upload = upload(&ecr).await;
    ecr.call("UploadLayerPart", part(&upload, 0, 0, b"a")).await;
    let refused = ecr.refused("CompleteLayerUpload", complete(&upload, &digest)).await;
    assert_eq!(refused.0, "LayerAlreadyExistsException");
}

#[tokio::test]
async fn an_image_is_put_and_read_back_exactly() {
    let ecr = ecr().await;
    let manifest = format!(" {} ", ecr.image("é\\u00e9").await);
    let input = on(json!({ "imageManifest": manifest, "imageTag": "v1", "imageDigest": digest(manifest.as_bytes()) }));
    let put = ecr.call("PutImage", input).await;
    assert_eq!(text(&put["image"]["imageId"]["imageDigest"]), digest(manifest.as_bytes()));
    let input = on(json!({ "imageIds": [{ "imageTag": "v1" }, { "imageTag": "nope" }] }));
    let got = ecr.call("BatchGetImage", input).await;
    assert_eq!(text(&got["images"][0]["imageManifest"]), manifest);
    assert_eq!(got["failures"][0]["failureCode"], "ImageNotFound");
}

#[tokio::test]
async fn the_same_image_and_tag_already_exist() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    let manifest = ecr.image("v1").await.to_string();
    let refused = ecr.refused("PutImage", on(json!({ "imageManifest": manifest, "imageTag": "v1" }))).await;
    assert_eq!(refused.0, "ImageAlreadyExistsException");
    let sentence = format!(
        "Image with digest '{digest}' and tag 'v1' already exists in the repository with name 'team/app' in registry \
         with id '123456789012'"
    );
    assert_eq!(refused.1, sentence);
}

#[tokio::test]
async fn a_manifest_without_media_type_needs_one_beside_it() {
    let ecr = ecr().await;
    let mut manifest = ecr.image("a").await;
    manifest.as_object_mut().unwrap().remove("mediaType");
    let mut input = on(json!({ "imageManifest": manifest.to_string(), "imageTag": "v1" }));
    assert_eq!(ecr.refused("PutImage", input.clone()).await.0, "InvalidParameterException");
    input["imageManifestMediaType"] = OCI_MANIFEST.into();
    ecr.call("PutImage", input).await;
}

#[tokio::test]
async fn missing_layers_and_children_have_names_of_their_own() {
    let ecr = ecr().await;
    let image = json!({ "imageManifest": manifest(b"c", b"l").to_string() });
    assert_eq!(ecr.refused("PutImage", on(image)).await.0, "LayersNotFoundException");
    let child = json!({ "mediaType": OCI_MANIFEST, "digest": digest(b"x"), "size": 1 });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] });
    let index = json!({ "imageManifest": index.to_string() });
    assert_eq!(ecr.refused("PutImage", on(index)).await.0, "ReferencedImagesNotFoundException");
}

#[tokio::test]
async fn another_digest_does_not_match() {
    let ecr = ecr().await;
    let manifest = ecr.image("a").await.to_string();
    let input = on(json!({ "imageManifest": manifest, "imageDigest": digest(b"x") }));
    assert_eq!(ecr.refused("PutImage", input).await.0, "ImageDigestDoesNotMatchException");
}

#[tokio::test]
async fn images_are_described_and_listed() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    let described = ecr.call("DescribeImages", on(json!({ "imageIds": [{ "imageTag": "v1" }] }))).await;
    let detail = &described["imageDetails"][0];
    assert_eq!(text(&detail["imageDigest"]), digest);
    assert_eq!(detail["imageTags"], json!(["v1"]));
    let size = "{\"salt\":\"v1\"}".len() + "layer v1".len();
    assert_eq!(detail["imageSizeInBytes"], size);
    let listed = ecr.call("ListImages", on(json!({}))).await;
    assert_eq!(listed["imageIds"], json!([{ "imageDigest": digest, "imageTag": "v1" }]));
    let refused = ecr.refused("DescribeImages", on(json!({ "imageIds": [{ "imageTag": "nope" }] }))).await;
    assert_eq!(refused.0, "ImageNotFoundException");
}

#[tokio::test]
async fn deleting_the_last_tag_deletes_the_image() {
    let ecr = ecr().await;
    let digest = ecr.push_image("v1").await;
    let answer = ecr.call("BatchDeleteImage", on(json!({ "imageIds": [{ "imageTag": "v1" }] }))).await;
    assert_eq!(answer["imageIds"], json!([{ "imageDigest": digest, "imageTag": "v1" }]));
    assert!(ecr.snapshot().manifests.is_empty());
}

#[tokio::test]
async fn a_manifest_in_a_list_is_not_deleted() {
    let ecr = ecr().await;
    let child = ecr.push_image("child").await;
    let descriptor = json!({ "mediaType": OCI_MANIFEST, "digest": child, "size": 1 });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor] }).to_string();
    assert_eq!(ecr.put_manifest("all", OCI_INDEX, index).await.status(), 201);
    let answer = ecr.call("BatchDeleteImage", on(json!({ "imageIds": [{ "imageDigest": child }] }))).await;
    assert_eq!(answer["failures"][0]["failureCode"], "ImageReferencedByManifestList");
}

#[tokio::test]
async fn a_download_address_is_for_layers_in_use() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    let loose = ecr.push_blob(b"loose").await;
    let ask = |digest: String| on(json!({ "layerDigest": digest }));
    let url = text(&ecr.call("GetDownloadUrlForLayer", ask(digest(b"layer v1"))).await["downloadUrl"]);
    assert_eq!(ecr.bare("GET", &url).send().await.unwrap().text().await.unwrap(), "layer v1");
    assert_eq!(ecr.refused("GetDownloadUrlForLayer", ask(loose)).await.0, "LayerInaccessibleException");
    assert_eq!(ecr.refused("GetDownloadUrlForLayer", ask(digest(b"no"))).await.0, "LayersNotFoundException");
}

#[tokio::test]
async fn over_the_rate_both_doors_say_so() {
    let rates = [("InitiateLayerUpload".to_owned(), Rate { per_second: 0.001, burst: 1.0 })];
    let ecr = start(Config { rates: rates.into(), ..Config::default() }).await;
    ecr.session().await;
    let response = ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap();
    assert_eq!(header(&response, "retry-after"), None);
    assert_eq!(error_of(response).await, error(429, "TOOMANYREQUESTS", "Rate exceeded"));
    let refused = ecr.refused("InitiateLayerUpload", on(json!({}))).await;
    assert_eq!(refused, ("ThrottlingException".to_owned(), "Rate exceeded".to_owned()));
}

#[tokio::test]
async fn nonsense_is_answered_and_never_a_crash() {
    let ecr = ecr().await;
    for operation in
        ["PutImage", "UploadLayerPart", "CreateRepository", "BatchGetImage", "DescribeImages", "CompleteLayerUpload"]
    {
        for input in [
            json!([]),
            json!(null),
            json!({ "repositoryName": 7 }),
            on(json!({ "imageIds": [7], "imageManifest": [] })),
        ] {
            let (status, _) = ecr.api(operation, input).await;
            assert!(status < 500, "{operation}");
        }
    }
}

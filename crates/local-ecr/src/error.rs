//! The refusals of the one engine behind both doors, under the names of the API's exceptions.

use serde_json::{Map, Value, json};

/// A refusal: the API door shows it as it is, the registry door relabels it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub name: &'static str,
    pub message: String,
    /// Members beside `message`, such as `lastValidByteReceived`.
    pub extra: Map<String, Value>,
    /// Why the service itself failed. The client is not shown it.
    pub cause: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub fn new(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, message: message.into(), extra: Map::new(), cause: None }
    }

    /// the sentence every refused parameter is told with.
    pub fn parameter(field: &str, constraint: impl std::fmt::Display) -> Self {
        Self::new(
            "InvalidParameterException",
            format!("Invalid parameter at '{field}' failed to satisfy constraint: '{constraint}'"),
        )
    }

    ///
    pub fn no_repository(name: &str, account: &str) -> Self {
        Self::new(
            "RepositoryNotFoundException",
            format!("The repository with name '{name}' does not exist in the registry with id '{account}'"),
        )
    }

    pub fn no_upload(upload: &str, repository: &str, account: &str) -> Self {
        Self::new(
            "UploadNotFoundException",
            format!(
                "The upload with id '{upload}' in the repository with name '{repository}' in the registry with id \
                 '{account}' does not exist"
            ),
        )
    }

    pub fn server(error: impl std::fmt::Display) -> Self {
        let refusal = Self::new("ServerException", "These errors are usually caused by a server-side issue.");
        Self { cause: Some(error.to_string()), ..refusal }
    }

    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    /// every modelled exception is a 400 but for the service's own fault.
    pub fn api_status(&self) -> u16 {
        match self.name {
            "ServerException" => 500,
            "MissingAuthenticationTokenException" => 403,
            _ => 400,
        }
    }

    pub fn api_body(&self) -> Value {
        let mut body = self.extra.clone();
        body.insert("__type".into(), self.name.into());
        body.insert("message".into(), self.message.clone().into());
        Value::Object(body)
    }

    /// The status and code of the registry door: the table in ecr-facts 4.2.
    pub fn registry_answer(&self) -> (u16, &'static str) {
        match self.name {
            "AccessDeniedException" => (403, "DENIED"),
            "EmptyUploadException" | "InvalidLayerException" | "LayerPartTooSmallException" => {
                (400, "BLOB_UPLOAD_INVALID")
            }
            "ImageDigestDoesNotMatchException" => (400, "DIGEST_INVALID"),
            "ImageNotFoundException" => (404, "MANIFEST_UNKNOWN"),
            "ImageTagAlreadyExistsException" => (400, "TAG_INVALID"),
            "InvalidLayerPartException" => (416, "BLOB_UPLOAD_INVALID"),
            "InvalidParameterException" => (405, "UNSUPPORTED"),
            "LayerInaccessibleException" => (404, "BLOB_UNKNOWN"),
            "LayersNotFoundException" => (400, "MANIFEST_BLOB_UNKNOWN"),
            "LimitExceededException" => (405, "UNSUPPORTED"),
            "ReferencedImagesNotFoundException" => (400, "MANIFEST_BLOB_UNKNOWN"),
            "RepositoryNotFoundException" => (404, "NAME_UNKNOWN"),
            "ThrottlingException" => (429, "TOOMANYREQUESTS"),
            "UploadNotFoundException" => (404, "BLOB_UPLOAD_UNKNOWN"),
            _ => (500, "UNKNOWN"),
        }
    }

    pub fn registry_body(&self) -> Value {
        let (_, code) = self.registry_answer();
        json!({ "errors": [{ "code": code, "message": self.message }] })
    }
}

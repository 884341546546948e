//! Repositories through the API.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, with_next};
use crate::error::{Refusal, Result};
use crate::rules::Mutability;
use crate::store::{Contents, Repository, Settings};
use crate::util::epoch;

impl Call<'_> {
    /// whether the account lets blobs be mounted.
    pub(super) fn account_setting(&self) -> Result<Value> {
        self.engine.enter(&self.principal, self.operation, None)?;
        match self.string("name")? {
            name @ "BLOB_MOUNTING" => {
                let value = if self.engine.config.mounting { "ENABLED" } else { "DISABLED" };
                Ok(json!({ "name": name, "value": value }))
            }
            other => Err(Refusal::parameter("name", format!("{other} is not a setting that this server has"))),
        }
    }

    pub(super) fn create_repository(&self) -> Result<Value> {
        let name = self.enter_repository()?;
        let settings = self.settings()?;
        if settings.tags.as_array().is_some_and(|tags| !tags.is_empty()) {
            self.engine.authorize(&self.principal, "TagResource", Some(name))?;
        }
        let repository = self.engine.create_repository(name, settings)?;
        Ok(json!({ "repository": self.describe(&repository) }))
    }

    pub(super) fn describe_repositories(&self) -> Result<Value> {
        if self.input["repositoryNames"].is_null() {
            self.engine.enter(&self.principal, self.operation, None)?;
            let (page, next) = self.page(self.engine.store.all())?;
            let page: Vec<_> = page.iter().map(|repository| self.describe(repository)).collect();
            return Ok(with_next(json!({ "repositories": page }), next));
        }
        let names = self.strings("repositoryNames", 100)?;
        if !self.input["nextToken"].is_null() || !self.input["maxResults"].is_null() {
            return Err(Refusal::parameter("repositoryNames", "cannot be combined with nextToken or maxResults"));
        }
        let mut found = Vec::new();
        for name in &names {
            // one unknown name fails the whole call.
            self.engine.enter(&self.principal, self.operation, Some(name))?;
            let account = self.input["registryId"].as_str().unwrap_or(&self.engine.config.account);
            if account != self.engine.config.account {
                return Err(Refusal::no_repository(name, account));
            }
            found.push(self.describe(&self.engine.repository(name)?));
        }
        Ok(json!({ "repositories": found }))
    }

    pub(super) fn delete_repository(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let described = self.describe(&repository);
        self.engine.delete_repository(&repository, self.input["force"] == true)?;
        Ok(json!({ "repository": described }))
    }

    pub(super) fn put_image_tag_mutability(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let filters = &self.input["imageTagMutabilityExclusionFilters"];
        let mutability = Mutability::parse(self.string("imageTagMutability")?, filters)?;
        let mut contents = self.engine.changeable(&repository)?;
        let set = |contents: &mut Contents| contents.settings.mutability = mutability.clone();
        repository.change(&mut contents, set).map_err(Refusal::server)?;
        let mut answer = json!({
            "registryId": self.engine.config.account,
            "repositoryName": repository.name,
        });
        show_mutability(&mut answer, &mutability);
        Ok(answer)
    }

    fn settings(&self) -> Result<Settings> {
        let input = &self.input;
        let mut settings = Settings::default();
        let mode = input["imageTagMutability"].as_str().unwrap_or("MUTABLE");
        settings.mutability = Mutability::parse(mode, &input["imageTagMutabilityExclusionFilters"])?;
        if let Some(tags) = input["tags"].as_array() {
            check_tags(tags)?;
            settings.tags = input["tags"].clone();
        }
        if let Some(scan) = input["imageScanningConfiguration"]["scanOnPush"].as_bool() {
            settings.scanning = json!({ "scanOnPush": scan });
        }
        if let Some(kind) = input["encryptionConfiguration"]["encryptionType"].as_str() {
            if !["AES256", "KMS", "KMS_DSSE"].contains(&kind) {
                return Err(Refusal::parameter(
                    "encryptionConfiguration.encryptionType",
                    "Member must satisfy enum value set: [AES256, KMS, KMS_DSSE]",
                ));
            }
            settings.encryption = json!({ "encryptionType": kind });
            if let Some(key) = input["encryptionConfiguration"]["kmsKey"].as_str() {
                settings.encryption["kmsKey"] = key.into();
            }
        }
        Ok(settings)
    }

    fn describe(&self, repository: &Arc<Repository>) -> Value {
        let engine = self.engine;
        let settings = repository.contents().settings.clone();
        let mut described = json!({
            "repositoryArn": engine.repository_arn(&repository.name),
            "registryId": engine.config.account,
            "repositoryName": repository.name,
            //
            "repositoryUri": format!("{}/{}", engine.registry_host(self.host), repository.name),
            "createdAt": epoch(settings.created_at),
            "imageScanningConfiguration": settings.scanning,
            "encryptionConfiguration": settings.encryption,
        });
        show_mutability(&mut described, &settings.mutability);
        described
    }
}

fn show_mutability(answer: &mut Value, mutability: &Mutability) {
    answer["imageTagMutability"] = mutability.mode().into();
    if mutability.mode().ends_with("_WITH_EXCLUSION") {
        answer["imageTagMutabilityExclusionFilters"] = mutability.filters();
    }
}

///
fn check_tags(tags: &[Value]) -> Result<()> {
    if tags.len() > 50 {
        return Err(Refusal::new("TooManyTagsException", "A repository cannot have more than 50 tags"));
    }
    let is_tag = |tag: &Value| {
        tag["Key"].as_str().is_some_and(|key| (1..=128).contains(&key.chars().count()))
            && tag["Value"].as_str().is_some_and(|value| value.chars().count() <= 256)
    };
    match tags.iter().all(is_tag) {
        true => Ok(()),
        false => Err(Refusal::new(
            "InvalidTagParameterException",
            "A tag has a key of 1 to 128 characters and a value of at most 256",
        )),
    }
}

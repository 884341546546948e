//! Which region: flag, ECR host, environment, profile, instance metadata, in this order.

use std::fmt;

use super::ambient::Ambient;
use super::settings::AwsSettings;
use crate::error::{Error, Result, Side};
use crate::image::Region;
use crate::text;
use crate::text::{Setting, Text};

const OPERATION: &str = "find the region";

/// Where the region came from, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionSource {
    /// The setting.
    Flag,
    /// The ECR host the user gave.
    Host,
    /// An environment variable.
    Environment(&'static str),
    /// A profile.
    Profile,
    /// The instance metadata service.
    InstanceMetadata,
}

impl fmt::Display for RegionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text::from(self).fmt(f)
    }
}

impl From<&RegionSource> for Text {
    fn from(source: &RegionSource) -> Self {
        match source {
            RegionSource::Flag => Setting::Region.into(),
            RegionSource::Host => "the registry host".into(),
            RegionSource::Environment(name) => (*name).into(),
            RegionSource::Profile => "the profile".into(),
            RegionSource::InstanceMetadata => "instance metadata".into(),
        }
    }
}

/// What the settings alone say. Asks nobody, so a contradiction is refused before any network call.
pub(super) fn from_settings(settings: &AwsSettings) -> Result<Option<(Region, RegionSource)>> {
    if let (Some(flag), Some(host)) = (&settings.region, &settings.region_from_host)
        && flag != host
    {
        let message = text![Setting::Region, format!(" says {flag}, but the registry host is in {host}")];
        return Err(Error::refused(OPERATION, message).with_hint(text![
            "leave out ",
            Setting::Region,
            ", or name the host in the other region"
        ]));
    }
    if let Some(region) = &settings.region {
        return Ok(Some((region.clone(), RegionSource::Flag)));
    }
    if let Some(region) = &settings.region_from_host {
        return Ok(Some((region.clone(), RegionSource::Host)));
    }
    for (name, value) in &settings.environment_regions {
        if !value.trim().is_empty() {
            return Ok(Some((parse(value, name)?, RegionSource::Environment(name))));
        }
    }
    Ok(None)
}

/// The region, or an error that lists each place looked at.
pub(super) async fn find(settings: &AwsSettings, ambient: &Ambient) -> Result<(Region, RegionSource)> {
    if let Some(found) = from_settings(settings)? {
        return Ok(found);
    }
    if let Some(text) = &ambient.profile_region {
        return Ok((parse(text, "the profile")?, RegionSource::Profile));
    }
    match ambient.metadata_region().await {
        Ok(text) => Ok((parse(&text, "the instance metadata")?, RegionSource::InstanceMetadata)),
        Err(reason) => Err(none_found(settings, &reason)),
    }
}

fn none_found(settings: &AwsSettings, metadata: &str) -> Error {
    let profile = match &settings.profile {
        Some(name) => format!("the profile `{name}` has none"),
        None => "the profile files have none".to_owned(),
    };
    Error::new(Side::Credentials, OPERATION, "no AWS region is known")
        .with_hint(text!["name it with ", Setting::Region, ", or AWS_REGION"])
        .with_note(text![
            "looked at: ",
            Setting::Region,
            format!(
                " and the registry host (not given); AWS_REGION and AWS_DEFAULT_REGION (not set); {profile}; instance \
                 metadata ({metadata})"
            ),
        ])
}

fn parse(text: &str, place: &str) -> Result<Region> {
    text.parse().map_err(|_| {
        Error::refused(
            OPERATION,
            format!("the region `{text}` in {place} is not a region code: something like `us-east-1` is expected"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(code: &str) -> Option<Region> {
        Some(code.parse().unwrap())
    }

    #[test]
    fn the_first_place_that_knows_wins() {
        let mut settings = AwsSettings {
            environment_regions: vec![("AWS_REGION", " ".into()), ("AWS_DEFAULT_REGION", "EU_west_1".into())],
            ..AwsSettings::default()
        };
        let found = |settings: &AwsSettings| {
            let (region, source) = from_settings(settings).unwrap().unwrap();
            format!("{region} from {source}")
        };
        assert_eq!(found(&settings), "eu-west-1 from AWS_DEFAULT_REGION");
        settings.region_from_host = region("us-west-2");
        assert_eq!(found(&settings), "us-west-2 from the registry host");
        settings.region = region("US_WEST_2");
        assert_eq!(found(&settings), "us-west-2 from `region`");
        settings.region = region("us-east-1");
        assert!(from_settings(&settings).unwrap_err().is_refused());
        assert!(from_settings(&AwsSettings::default()).unwrap().is_none());
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        let settings =
            AwsSettings { environment_regions: vec![("AWS_REGION", "useast1".into())], ..AwsSettings::default() };
        let error = from_settings(&settings).unwrap_err();
        assert!(error.is_refused() && error.message().contains("AWS_REGION"), "{error}");
    }
}

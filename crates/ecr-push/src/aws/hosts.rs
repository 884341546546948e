//! Partitions, registry hosts and API hosts as data (ecr-facts 5.1 and 5.2).
//!
//! A host the user typed is read with the meaning of the ECR credential helper's pattern: anchored, host name only, so that
//! `….amazonaws.com.evil.example` never gets a token.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::image::{AccountId, Region};
use crate::text;
use crate::text::Setting;

/// A group of regions with its own accounts and domain names.
#[derive(Debug, PartialEq, Eq)]
pub struct Partition {
    /// The name in ARNs, such as `aws-cn`.
    pub name: &'static str,
    /// What a region code begins with. The first partition, `aws`, takes all that no other claims.
    region_prefix: &'static str,
    /// `amazonaws.com` in `api.ecr.us-east-1.amazonaws.com`.
    dns_suffix: &'static str,
    /// The suffix of dual-stack API hosts.
    api_dual_stack_suffix: &'static str,
    /// The suffix of dual-stack registry hosts, where they exist.
    registry_dual_stack_suffix: Option<&'static str>,
    /// Are there FIPS registry hosts?
    fips_registry: bool,
}

/// ecr-facts 5.1 (registry columns) and 5.2 (API suffixes, region patterns).
static PARTITIONS: [Partition; 8] = [
    Partition {
        name: "aws",
        region_prefix: "",
        dns_suffix: "amazonaws.com",
        api_dual_stack_suffix: "api.aws",
        registry_dual_stack_suffix: Some("on.aws"),
        fips_registry: true,
    },
    Partition {
        name: "aws-us-gov",
        region_prefix: "us-gov-",
        dns_suffix: "amazonaws.com",
        api_dual_stack_suffix: "api.aws",
        registry_dual_stack_suffix: Some("on.aws"),
        fips_registry: true,
    },
    Partition {
        name: "aws-cn",
        region_prefix: "cn-",
        dns_suffix: "amazonaws.com.cn",
        api_dual_stack_suffix: "api.amazonwebservices.com.cn",
        registry_dual_stack_suffix: Some("on.amazonwebservices.com.cn"),
        fips_registry: false,
    },
    Partition {
        name: "aws-eusc",
        region_prefix: "eusc-",
        dns_suffix: "amazonaws.eu",
        api_dual_stack_suffix: "api.amazonwebservices.eu",
        registry_dual_stack_suffix: None,
        fips_registry: false,
    },
    Partition {
        name: "aws-iso",
        region_prefix: "us-iso-",
        dns_suffix: "c2s.ic.gov",
        api_dual_stack_suffix: "api.aws.ic.gov",
        registry_dual_stack_suffix: None,
        fips_registry: false,
    },
    Partition {
        name: "aws-iso-b",
        region_prefix: "us-isob-",
        dns_suffix: "sc2s.sgov.gov",
        api_dual_stack_suffix: "api.aws.scloud",
        registry_dual_stack_suffix: None,
        fips_registry: false,
    },
    Partition {
        name: "aws-iso-e",
        region_prefix: "eu-isoe-",
        dns_suffix: "cloud.adc-e.uk",
        api_dual_stack_suffix: "api.cloud-aws.adc-e.uk",
        registry_dual_stack_suffix: None,
        fips_registry: false,
    },
    Partition {
        name: "aws-iso-f",
        region_prefix: "us-isof-",
        dns_suffix: "csp.hci.ic.gov",
        api_dual_stack_suffix: "api.aws.hci.ic.gov",
        registry_dual_stack_suffix: None,
        fips_registry: false,
    },
];

impl Partition {
    /// The partition of a region. A region nobody has heard of is in `aws`, as the SDKs have it.
    pub fn of(region: &Region) -> &'static Self {
        PARTITIONS[1..]
            .iter()
            .find(|partition| region.as_str().starts_with(partition.region_prefix))
            .unwrap_or(&PARTITIONS[0])
    }
}

/// A private ECR registry, read from its host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryHost {
    /// The registry's account.
    pub account: AccountId,
    /// The registry's region.
    pub region: Region,
    /// Is it the FIPS host?
    pub fips: bool,
    /// Is it the dual-stack host?
    pub dual_stack: bool,
    /// The region's partition.
    pub partition: &'static Partition,
}

impl RegistryHost {
    /// Reads a host name, in any case. `None` for everything that is not a private ECR registry, and for a host with
    /// a port: the caller splits that off.
    pub fn parse(host: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        let (account, rest) = host.split_once('.')?;
        let rest = rest.strip_prefix("dkr.ecr").or_else(|| rest.strip_prefix("dkr-ecr"))?;
        let (fips, rest) = match rest.strip_prefix("-fips") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (region, suffix) = rest.strip_prefix('.')?.split_once('.')?;
        let dual_stack = dual_stack_suffix(suffix)?;
        // A region may be written in several ways elsewhere, but a host name in one.
        let code: Region = region.parse().ok()?;
        let region = Some(code).filter(|code| code.as_str() == region)?;
        Some(Self { account: account.parse().ok()?, partition: Partition::of(&region), region, fips, dual_stack })
    }
}

/// Whether a known suffix is a dual-stack one; `None` for a suffix that is not Amazon's.
fn dual_stack_suffix(suffix: &str) -> Option<bool> {
    PARTITIONS.iter().find_map(|partition| {
        if partition.dns_suffix == suffix {
            return Some(false);
        }
        (partition.registry_dual_stack_suffix == Some(suffix)).then_some(true)
    })
}

/// The host of a private registry. Refused where the partition has no such host.
pub fn registry_host(account: &AccountId, region: &Region, fips: bool, dual_stack: bool) -> Result<String> {
    let partition = Partition::of(region);
    let missing = |what: &str| {
        Error::refused(
            "find the registry host",
            format!("ECR has no {what} registry host in {region} (partition {})", partition.name),
        )
    };
    if fips && !partition.fips_registry {
        return Err(missing("FIPS").with_hint(text!["leave out ", Setting::Fips]));
    }
    let suffix = if dual_stack {
        partition
            .registry_dual_stack_suffix
            .ok_or_else(|| missing("dual-stack").with_hint(text!["leave out ", Setting::DualStack]))?
    } else {
        partition.dns_suffix
    };
    // China's dual-stack hosts are built like everyone's. ecr-facts 5.1 saw `dkr.ecr` in the credential helper's tests, but
    // its pattern takes both, and the user guide has only `dkr-ecr` for dual-stack.
    let service = match (dual_stack, fips) {
        (false, false) => "dkr.ecr",
        (false, true) => "dkr.ecr-fips",
        (true, false) => "dkr-ecr",
        (true, true) => "dkr-ecr-fips",
    };
    Ok(format!("{account}.{service}.{region}.{suffix}"))
}

/// The host of the ECR API. The SDK's own rules are what is used; a test holds this table against them.
pub fn api_host(region: &Region, fips: bool, dual_stack: bool) -> String {
    let partition = Partition::of(region);
    let dns = partition.dns_suffix;
    let dual = partition.api_dual_stack_suffix;
    match (dual_stack, fips) {
        (false, false) => format!("api.ecr.{region}.{dns}"),
        (false, true) => format!("api.ecr-fips.{region}.{dns}"),
        (true, false) => format!("ecr.{region}.{dual}"),
        (true, true) => format!("ecr-fips.{region}.{dual}"),
    }
}

/// Is this a name of Amazon's? Plain HTTP is never spoken to one, whatever the user allows.
pub fn is_aws_host(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() {
        return false;
    }
    let below = |domain: &str| host.strip_suffix(domain).is_some_and(|head| head.is_empty() || head.ends_with('.'));
    below("public.ecr.aws")
        || below("ecr-public.aws.com")
        || PARTITIONS.iter().any(|partition| {
            below(partition.dns_suffix)
                || below(partition.api_dual_stack_suffix)
                || partition.registry_dual_stack_suffix.is_some_and(below)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ecr::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};

    const ACCOUNT: &str = "123456789012";

    /// Region, partition, plain, FIPS, dual-stack, both: the rows of ecr-facts 5.1.
    const ROWS: [(&str, &str, &str, &str, &str, &str); 9] = [
        (
            "us-east-1",
            "aws",
            "dkr.ecr.us-east-1.amazonaws.com",
            "dkr.ecr-fips.us-east-1.amazonaws.com",
            "dkr-ecr.us-east-1.on.aws",
            "dkr-ecr-fips.us-east-1.on.aws",
        ),
        (
            "xx-new-1",
            "aws",
            "dkr.ecr.xx-new-1.amazonaws.com",
            "dkr.ecr-fips.xx-new-1.amazonaws.com",
            "dkr-ecr.xx-new-1.on.aws",
            "dkr-ecr-fips.xx-new-1.on.aws",
        ),
        (
            "us-gov-west-1",
            "aws-us-gov",
            "dkr.ecr.us-gov-west-1.amazonaws.com",
            "dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            "dkr-ecr.us-gov-west-1.on.aws",
            "dkr-ecr-fips.us-gov-west-1.on.aws",
        ),
        (
            "cn-north-1",
            "aws-cn",
            "dkr.ecr.cn-north-1.amazonaws.com.cn",
            "",
            "dkr-ecr.cn-north-1.on.amazonwebservices.com.cn",
            "",
        ),
        ("eusc-de-east-1", "aws-eusc", "dkr.ecr.eusc-de-east-1.amazonaws.eu", "", "", ""),
        ("us-iso-east-1", "aws-iso", "dkr.ecr.us-iso-east-1.c2s.ic.gov", "", "", ""),
        ("us-isob-east-1", "aws-iso-b", "dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "", "", ""),
        ("eu-isoe-west-1", "aws-iso-e", "dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", "", "", ""),
        ("us-isof-south-1", "aws-iso-f", "dkr.ecr.us-isof-south-1.csp.hci.ic.gov", "", "", ""),
    ];

    const MODES: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

    fn region(code: &str) -> Region {
        code.parse().unwrap()
    }

    #[test]
    fn a_host_name_is_read_letter_by_letter() {
        assert!(RegistryHost::parse("123456789012.dkr.ecr.US-EAST-1.amazonaws.com").is_some());
        for region in ["us_east_1", " us-east-1 ", "us-\u{212a}ast-1"] {
            let host = format!("123456789012.dkr.ecr.{region}.amazonaws.com");
            assert_eq!(RegistryHost::parse(&host), None, "{host}");
        }
    }

    #[test]
    fn every_partition_has_its_registry_hosts_and_they_are_read_back() {
        let account: AccountId = ACCOUNT.parse().unwrap();
        for (code, partition, plain, fips, dual, both) in ROWS {
            assert_eq!(Partition::of(&region(code)).name, partition);
            for ((fips, dual_stack), tail) in MODES.into_iter().zip([plain, fips, dual, both]) {
                let host = registry_host(&account, &region(code), fips, dual_stack);
                if tail.is_empty() {
                    let error = host.unwrap_err();
                    assert!(error.is_refused() && error.message().contains(partition), "{error}");
                    continue;
                }
                let host = host.unwrap();
                assert_eq!(host, format!("{ACCOUNT}.{tail}"));
                let parsed = RegistryHost::parse(&host.to_uppercase()).unwrap();
                let expected = RegistryHost {
                    account: account.clone(),
                    region: region(code),
                    fips,
                    dual_stack,
                    partition: Partition::of(&region(code)),
                };
                assert_eq!(parsed, expected);
                assert!(is_aws_host(&host));
            }
        }
    }

    #[tokio::test]
    async fn the_sdk_agrees_with_our_table_of_api_hosts() {
        let resolver = DefaultResolver::new();
        for (code, ..) in ROWS {
            for (fips, dual_stack) in MODES {
                let params = Params::builder()
                    .region(code.to_owned())
                    .use_fips(fips)
                    .use_dual_stack(dual_stack)
                    .build()
                    .unwrap();
                let endpoint = ResolveEndpoint::resolve_endpoint(&resolver, &params).await.unwrap();
                let ours = api_host(&region(code), fips, dual_stack);
                assert_eq!(endpoint.url(), format!("https://{ours}"));
                assert!(is_aws_host(&ours));
            }
        }
    }

    #[test]
    fn look_alikes_are_not_ecr() {
        for host in [
            "123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example",
            "123456789012.dkr.ecr.us-east-1.on.aws.com.cn",
            "evil.123456789012.dkr.ecr.us-east-1.amazonaws.com",
            "12345678901.dkr.ecr.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.notamazonaws.com",
            "123456789012.dkr.ecr..amazonaws.com",
            "123456789012.dkr_ecr.us-east-1.amazonaws.com",
            "123456789012.dkr.ecr.us-east-1.amazonaws.com:443",
            "123456789012.dkr.ecr.us-east-1.amazonaws.com/x",
            "public.ecr.aws",
            "ghcr.io",
            "",
        ] {
            assert_eq!(RegistryHost::parse(host), None, "{host}");
        }
    }

    #[test]
    fn amazon_names_are_known() {
        for host in ["public.ecr.aws", "vpce-1.api.ecr.us-east-1.vpce.amazonaws.com", "sts.cn-north-1.amazonaws.com.cn"]
        {
            assert!(is_aws_host(host), "{host}");
        }
        for host in ["localhost", "127.0.0.1", "amazonaws.com.evil.example", "notamazonaws.com", "ghcr.io"] {
            assert!(!is_aws_host(host), "{host}");
        }
    }
}

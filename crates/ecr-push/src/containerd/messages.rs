//! The calls and their messages, after containerd's `api/services/*/v1/*.proto` and `api/types/descriptor.proto`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::proto::{Malformed, Value, Writer, fields};

type Result<T> = std::result::Result<T, Malformed>;

/// A method of the API, and what the user is told is being done.
#[derive(Debug)]
pub(super) struct Method {
    pub path: &'static str,
    pub operation: &'static str,
}

pub(super) const VERSION: Method =
    Method { path: "/containerd.services.version.v1.Version/Version", operation: "reach containerd" };
pub(super) const PLUGINS: Method =
    Method { path: "/containerd.services.introspection.v1.Introspection/Plugins", operation: "find content store" };
pub(super) const NAMESPACES: Method =
    Method { path: "/containerd.services.namespaces.v1.Namespaces/List", operation: "list namespaces" };
pub(super) const GET_IMAGE: Method =
    Method { path: "/containerd.services.images.v1.Images/Get", operation: "find image" };
pub(super) const LIST_IMAGES: Method =
    Method { path: "/containerd.services.images.v1.Images/List", operation: "list images" };
pub(super) const INFO: Method =
    Method { path: "/containerd.services.content.v1.Content/Info", operation: "look up blob" };
pub(super) const READ: Method = Method { path: "/containerd.services.content.v1.Content/Read", operation: "read blob" };

/// The request of every call that is asked with one text in field 1: a name, a digest, a filter, or nothing.
pub(super) fn request(text: &str) -> Vec<u8> {
    Writer::default().text(1, text).finish()
}

/// `ReadContentRequest`. `len` must not be zero: to containerd that means "to the end".
pub(super) fn read_request(digest: &str, offset: u64, len: u64) -> Vec<u8> {
    Writer::default().text(1, digest).size(2, offset).size(3, len).finish()
}

/// `containerd.types.Descriptor`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

impl Descriptor {
    fn decode(message: Bytes) -> Result<Self> {
        let mut descriptor = Self::default();
        for field in fields(message) {
            match field? {
                (1, value) => descriptor.media_type = value.text()?,
                (2, value) => descriptor.digest = value.text()?,
                (3, value) => descriptor.size = value.size()?,
                _ => {}
            }
        }
        Ok(descriptor)
    }
}

/// `Image`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub name: String,
    pub target: Descriptor,
}

impl Image {
    fn decode(message: Bytes) -> Result<Self> {
        let mut image = Self::default();
        for field in fields(message) {
            match field? {
                (1, value) => image.name = value.text()?,
                (3, value) => image.target = Descriptor::decode(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(image)
    }
}

/// `GetImageResponse` and `ListImagesResponse`: the images are in field 1.
pub(super) fn images(message: Bytes) -> Result<Vec<Image>> {
    repeated(message, |value| Image::decode(value.bytes()?))
}

/// `ListNamespacesResponse`: the names.
pub(super) fn namespaces(message: Bytes) -> Result<Vec<String>> {
    repeated(message, first_text)
}

/// `VersionResponse`: the version.
pub(super) fn version(message: Bytes) -> Result<String> {
    Ok(repeated(message, Value::text)?.pop().unwrap_or_default())
}

/// `PluginsResponse`: what each plugin exports.
pub(super) fn exports(message: Bytes) -> Result<Vec<BTreeMap<String, String>>> {
    repeated(message, |plugin| {
        let mut exports = BTreeMap::new();
        for field in fields(plugin.bytes()?) {
            if let (5, value) = field? {
                value.entry_of(&mut exports)?;
            }
        }
        Ok(exports)
    })
}

/// `InfoResponse`: the digest and the size of the blob.
pub(super) fn info(message: Bytes) -> Result<(String, u64)> {
    let mut info = (String::new(), 0);
    for message in repeated(message, Value::bytes)? {
        for field in fields(message) {
            match field? {
                (1, value) => info.0 = value.text()?,
                (2, value) => info.1 = value.size()?,
                _ => {}
            }
        }
    }
    Ok(info)
}

/// `ReadContentResponse`: the bytes. The offset beside them is not used: containerd counts it from where the read starts
/// (`readResponseWriter` in its content service; seen with 1.6.20), and its own client does not look at it.
pub(super) fn chunk(message: Bytes) -> Result<Bytes> {
    let mut data = Bytes::new();
    for field in fields(message) {
        if let (2, value) = field? {
            data = value.bytes()?;
        }
    }
    Ok(data)
}

/// Every field 1 of the message.
fn repeated<T>(message: Bytes, decode: impl Fn(Value) -> Result<T>) -> Result<Vec<T>> {
    fields(message)
        .filter_map(|field| match field {
            Ok((1, value)) => Some(decode(value)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .collect()
}

fn first_text(message: Value) -> Result<String> {
    Ok(repeated(message.bytes()?, Value::text)?.pop().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts `message` into field `number` of another one.
    fn nested(number: u8, message: Vec<u8>) -> Vec<u8> {
        [vec![number << 3 | 2, message.len() as u8], message].concat()
    }

    fn entry(number: u8, key: &str, value: &str) -> Vec<u8> {
        nested(number, Writer::default().text(1, key).text(2, value).finish())
    }

    #[test]
    fn an_image_is_read() {
        let target = [Writer::default().text(1, "type").text(2, "sha256:00").size(3, 7).finish(), entry(5, "a", "b")];
        let created = nested(7, Writer::default().size(1, 1_700_000_000).finish());
        let image = [request("app:v1"), entry(2, "k", "v"), nested(3, target.concat()), created].concat();
        let list = images([nested(1, image.clone()), nested(1, request("other"))].concat().into()).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].name, "app:v1");
        assert_eq!(list[0].target.media_type, "type");
        assert_eq!(list[0].target.digest, "sha256:00");
        assert_eq!(list[0].target.size, 7);
        assert_eq!(list[1], Image { name: "other".to_owned(), ..Image::default() });
        assert!(images(nested(1, nested(3, nested(3, Vec::new()))).into()).is_err(), "a size that is bytes");
    }

    #[test]
    fn small_answers_are_read() {
        assert_eq!(version(Bytes::new()).unwrap(), "");
        assert_eq!(version(Writer::default().text(1, "1.6.20").text(2, "r").finish().into()).unwrap(), "1.6.20");
        let names = [nested(1, request("default")), nested(1, request("k8s.io"))].concat();
        assert_eq!(namespaces(names.into()).unwrap(), ["default", "k8s.io"]);
        let plugin = [request("io.containerd.content.v1"), entry(5, "root", "/var/lib")].concat();
        assert_eq!(exports(nested(1, plugin).into()).unwrap()[0]["root"], "/var/lib");
        let message = nested(1, Writer::default().text(1, "sha256:00").size(2, 5).finish());
        assert_eq!(info(message.into()).unwrap(), ("sha256:00".to_owned(), 5));
        assert_eq!(chunk(Writer::default().size(1, 9).text(2, "xy").finish().into()).unwrap(), "xy");
        assert!(chunk(Writer::default().size(2, 1).finish().into()).is_err(), "data that is a number");
        assert!(info(nested(1, Writer::default().size(1, 5).finish()).into()).is_err(), "a digest that is a number");
    }

    #[test]
    fn a_read_request_has_its_three_fields() {
        assert_eq!(read_request("d", 0, 1), b"\x0a\x01d\x18\x01");
        assert_eq!(read_request("d", 300, 1), b"\x0a\x01d\x10\xac\x02\x18\x01");
    }
}

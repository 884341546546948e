//! Protobuf's wire format, as far as the messages here need it (protobuf.dev, "Encoding").
//!
//! A message is a row of fields: a varint with number and wire type, then the value. Unknown fields are skipped, which
//! is how a newer containerd stays readable. Nothing is allocated by a length that a message claims.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Buf, Bytes};

/// What is wrong with bytes that should have been a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

type Result<T> = std::result::Result<T, Malformed>;

/// The value of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Varint(u64),
    /// A string, bytes, or a message.
    Bytes(Bytes),
    /// Four or eight bytes: no message here has such a field, but one may get it.
    Fixed,
}

impl Value {
    pub fn bytes(self) -> Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a field that should hold bytes holds a number")),
        }
    }

    pub fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// A size or an offset: the messages declare them as `int64`, but less than zero means nothing.
    pub fn size(self) -> Result<u64> {
        match self {
            Self::Varint(number) if number <= i64::MAX as u64 => Ok(number),
            Self::Varint(_) => Err(Malformed("a size is less than zero")),
            _ => Err(Malformed("a field that should hold a number holds something else")),
        }
    }

    /// Puts this entry of a `map<string, string>` into `map`: on the wire it is a message of key (1) and value (2).
    pub fn entry_of(self, map: &mut BTreeMap<String, String>) -> Result<()> {
        let (mut key, mut value) = (String::new(), String::new());
        for field in fields(self.bytes()?) {
            match field? {
                (1, text) => key = text.text()?,
                (2, text) => value = text.text()?,
                _ => {}
            }
        }
        map.insert(key, value);
        Ok(())
    }
}

/// The fields of a message. After an error there are no more.
pub(super) fn fields(message: Bytes) -> impl Iterator<Item = Result<(u64, Value)>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_err() {
            rest.clear();
        }
        Some(field)
    })
}

fn field(rest: &mut Bytes) -> Result<(u64, Value)> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => skip(rest, 8)?,
        2 => {
            let len = usize::try_from(varint(rest)?).unwrap_or(usize::MAX);
            if len > rest.len() {
                return Err(Malformed("a field is longer than its message"));
            }
            Value::Bytes(rest.split_to(len))
        }
        5 => skip(rest, 4)?,
        // 3 and 4 are the groups of proto2, 6 and 7 are not given to anything.
        _ => return Err(Malformed("a field has a wire type that proto3 does not know")),
    };
    match key >> 3 {
        0 => Err(Malformed("a field has the number zero")),
        number => Ok((number, value)),
    }
}

fn skip(rest: &mut Bytes, len: usize) -> Result<Value> {
    if len > rest.len() {
        return Err(Malformed("the message ends within a field"));
    }
    rest.advance(len);
    Ok(Value::Fixed)
}

/// Seven bits a byte, lowest first; the high bit says that more follow.
fn varint(rest: &mut Bytes) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = rest.try_get_u8().map_err(|_| Malformed("the message ends within a number"))?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed("a number has more than 64 bits"))
}

/// Writes a message. As proto3 has it, a field with the default value is left out.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub fn text(mut self, number: u64, text: &str) -> Self {
        if !text.is_empty() {
            self.varint(number << 3 | 2);
            self.varint(text.len() as u64);
            self.0.extend_from_slice(text.as_bytes());
        }
        self
    }

    pub fn size(mut self, number: u64, value: u64) -> Self {
        if value != 0 {
            self.varint(number << 3);
            self.varint(value);
        }
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u64, Value)>> {
        fields(Bytes::copy_from_slice(bytes)).collect()
    }

    fn bytes(text: &'static str) -> Value {
        Value::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn what_is_written_is_read_back() {
        for number in [1, 127, 128, 300, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let message = Writer::default().text(1, "sha256:é").size(2, number).text(3, "").size(4, 0).finish();
            assert_eq!(read(&message), Ok(vec![(1, bytes("sha256:é")), (2, Value::Varint(number))]));
        }
    }

    /// The examples of protobuf.dev, "Encoding".
    #[test]
    fn the_examples_of_the_encoding_are_read() {
        assert_eq!(read(&[0x08, 0x96, 0x01]), Ok(vec![(1, Value::Varint(150))]));
        assert_eq!(read(b"\x12\x07testing"), Ok(vec![(2, bytes("testing"))]));
    }

    #[test]
    fn fields_of_every_kind_are_skipped() {
        let message = b"\x09\0\0\0\0\0\0\0\0\x15\0\0\0\0\xf8\xff\xff\xff\x0f\x01\x0a\x01x";
        let numbers: Vec<u64> = read(message).unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 2, 0x1fff_ffff, 1]);
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let eleven = [&[0x08][..], &[0xff; 10], &[0x01]].concat();
        for (message, why) in [
            (&b"\x08"[..], "the message ends within a number"),
            (b"\x08\x80", "the message ends within a number"),
            (b"\x80", "the message ends within a number"),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "a number has more than 64 bits"),
            (&eleven, "a number has more than 64 bits"),
            (b"\x0a\x05abc", "a field is longer than its message"),
            (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a field is longer than its message"),
            (b"\x0a\xff\xff\xff\xff\x07", "a field is longer than its message"),
            (b"\x09\0\0\0", "the message ends within a field"),
            (b"\x0d\0\0\0", "the message ends within a field"),
            (b"\x0b", "a field has a wire type that proto3 does not know"),
            (b"\x0c", "a field has a wire type that proto3 does not know"),
            (b"\x0f", "a field has a wire type that proto3 does not know"),
            (b"\x00\x01", "a field has the number zero"),
        ] {
            assert_eq!(read(message), Err(Malformed(why)), "{message:?}");
        }
    }

    #[test]
    fn values_of_a_wrong_type_are_refused() {
        assert!(Value::Varint(1).text().is_err());
        assert!(Value::Fixed.bytes().is_err());
        assert!(bytes("1").size().is_err());
        assert!(Value::Fixed.size().is_err());
        assert!(Value::Varint(u64::MAX).size().is_err());
        assert!(Value::Bytes(Bytes::from_static(b"\xff")).text().is_err());
        assert!(bytes("\u{8}\u{1}").entry_of(&mut BTreeMap::new()).is_err());
    }

    /// Every message cut anywhere, and with every byte changed, is read or refused; it is never a panic or an endless
    /// loop.
    #[test]
    fn damaged_messages_end() {
        let inner = Writer::default().text(1, "key").text(2, "value").size(3, u64::MAX).finish();
        let message = Writer::default().text(1, std::str::from_utf8(b"name").unwrap()).size(2, 1 << 40).finish();
        let message = [message, vec![0x1a, inner.len() as u8], inner].concat();
        for at in 0..message.len() {
            let _ = read(&message[..at]);
            for byte in 0..=255 {
                let mut damaged = message.clone();
                damaged[at] = byte;
                if let Ok(fields) = read(&damaged) {
                    for (_, value) in fields {
                        let _ = value.entry_of(&mut BTreeMap::new());
                    }
                }
            }
        }
    }
}

'use strict';
// Reads a VSIX, which is a zip file.
const fs = require('fs');
const zlib = require('zlib');

/** The files in a VSIX: their names, and a function that gives their bytes. */
function open(file) {
  const bytes = fs.readFileSync(file);
  const end = bytes.lastIndexOf(Buffer.from([0x50, 0x4b, 0x05, 0x06]));
  if (end < 0) throw new Error(`${file} is not a zip file`);
  const entries = new Map();
  let at = bytes.readUInt32LE(end + 16);
  for (let count = bytes.readUInt16LE(end + 10); count > 0; count--) {
    const [name, extra, comment] = [28, 30, 32].map((offset) => bytes.readUInt16LE(at + offset));
    const entry = { method: bytes.readUInt16LE(at + 10), packed: bytes.readUInt32LE(at + 20), start: bytes.readUInt32LE(at + 42) };
    entries.set(bytes.toString('utf8', at + 46, at + 46 + name), entry);
    at += 46 + name + extra + comment;
  }
  const read = (name) => {
    const { method, packed, start } = entries.get(name);
    const data = start + 30 + bytes.readUInt16LE(start + 26) + bytes.readUInt16LE(start + 28);
    const content = bytes.subarray(data, data + packed);
    return method === 8 ? zlib.inflateRawSync(content) : content;
  };
  return { names: [...entries.keys()].filter((name) => !name.endsWith('/')), size: bytes.length, read };
}

module.exports = { open };

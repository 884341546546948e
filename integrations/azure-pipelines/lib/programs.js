'use strict';
// The programs that go into the task: bin/PLATFORM-ARCH/ecr-push, with the names Node.js has for platforms.
const fs = require('fs');
const path = require('path');

const PLATFORMS = [
  { name: 'linux-x64', title: 'Linux, x64', run: true },
  { name: 'linux-arm64', title: 'Linux, arm64' },
  { name: 'darwin-x64', title: 'macOS, x64' },
  { name: 'darwin-arm64', title: 'macOS, arm64' },
  { name: 'win32-x64', title: 'Windows, x64', file: 'ecr-push.exe' },
];

/** The platform that an executable file is for, read from its first bytes. */
function platformOf(file) {
  const head = Buffer.alloc(4096);
  const descriptor = fs.openSync(file, 'r');
  const length = fs.readSync(descriptor, head, 0, head.length, 0);
  fs.closeSync(descriptor);
  if (length >= 20 && head.readUInt32BE(0) === 0x7f454c46) {
    return { 0x3e: 'linux-x64', 0xb7: 'linux-arm64' }[head.readUInt16LE(18)];
  }
  if (length >= 8 && head.readUInt32LE(0) === 0xfeedfacf) {
    return { 0x01000007: 'darwin-x64', 0x0100000c: 'darwin-arm64' }[head.readUInt32LE(4)];
  }
  if (length >= 64 && head.toString('latin1', 0, 2) === 'MZ') {
    const start = head.readUInt32LE(60);
    const signed = start + 6 <= length && head.readUInt32BE(start) === 0x50450000;
    return signed ? { 0x8664: 'win32-x64' }[head.readUInt16LE(start + 4)] : undefined;
  }
  return undefined;
}

/**
 * Why a program for Linux does not run on every Linux; undefined if it does. An agent may have another C library than the machine that
 * built it, or an older one, so a program that needs one from outside is not packed.
 */
function dynamic(file) {
  const bytes = fs.readFileSync(file);
  try {
    if (bytes[4] !== 2 || bytes[5] !== 1) return 'is no 64-bit little-endian program';
    const at64 = (at) => Number(bytes.readBigUInt64LE(at));
    const text = (at) => bytes.toString('latin1', at, bytes.indexOf(0, at));
    const [table, size, count] = [at64(32), bytes.readUInt16LE(54), bytes.readUInt16LE(56)];
    const segments = [];
    for (let at = table; segments.length < count; at += size) {
      segments.push({ type: bytes.readUInt32LE(at), offset: at64(at + 8), length: at64(at + 32) });
    }
    const loader = segments.find(({ type }) => type === 3);
    if (loader) return `asks for the dynamic linker ${text(loader.offset)}`;
    // A static program that may lie anywhere in memory has this segment too, with no library in it.
    for (const { offset, length } of segments.filter(({ type }) => type === 2)) {
      for (let at = offset; at < offset + length; at += 16) {
        const tag = at64(at);
        if (tag === 0) break;
        if (tag === 1) return 'asks for a shared library';
      }
    }
    return segments.some(({ type }) => type === 1) ? undefined : 'holds nothing to load';
  } catch (error) {
    if (error instanceof RangeError) return 'ends too early';
    throw error;
  }
}

/** The licences of what is in the programs, which dist/build puts beside each. They are the same for all platforms. */
const NOTICES = 'THIRD-PARTY-NOTICES.txt';

/** The platforms that `folder` holds a program for. */
function find(folder) {
  const entries = fs.existsSync(folder) ? fs.readdirSync(folder).sort() : [];
  if (!entries.length) throw new Error(`no programs in ${folder}; expected PLATFORM-ARCH/ecr-push, such as linux-x64/ecr-push`);
  const known = PLATFORMS.map((platform) => platform.name);
  const strange = entries.filter((entry) => !known.includes(entry));
  if (strange.length) throw new Error(`${folder}: ${strange.join(', ')} is not one of ${known.join(', ')}`);
  return PLATFORMS.filter((platform) => entries.includes(platform.name)).map((platform) => {
    const name = platform.file || 'ecr-push';
    const inside = fs.readdirSync(path.join(folder, platform.name));
    // What dist/build makes, and nothing else.
    const known = [name, `${name}.cdx.json`, NOTICES];
    const strange = inside.filter((entry) => !known.includes(entry));
    if (strange.length) throw new Error(`${platform.name} holds ${strange.join(', ')}, which dist/build does not make`);
    for (const needed of [name, NOTICES]) {
      if (!inside.includes(needed)) throw new Error(`${platform.name} lacks ${needed}, which dist/build makes`);
    }
    const file = path.join(folder, platform.name, name);
    const actual = platformOf(file);
    if (actual !== platform.name) throw new Error(`${file} is a program for ${actual || 'an unknown platform'}`);
    const reason = actual.startsWith('linux-') && dynamic(file);
    if (reason) throw new Error(`${file} is not a static program: it ${reason}`);
    return { ...platform, file, inside: `bin/${platform.name}/${name}` };
  });
}

/** The file with the notices of all programs. Programs of one commit have the same. */
function notices(platforms) {
  const [first, ...others] = platforms.map(({ file }) => path.join(path.dirname(file), NOTICES));
  const text = fs.readFileSync(first);
  const other = others.find((file) => !fs.readFileSync(file).equals(text));
  if (other) throw new Error(`${other} is not the same as ${first}: the programs were not built from one commit`);
  return first;
}

/** What a page may say about them. */
function list(platforms) {
  const lines = platforms.map(({ title, run }) => `- ${title}${run ? '' : ': built, never run by the tests'}`);
  return lines.join('\n');
}

module.exports = { NOTICES, find, list, notices };

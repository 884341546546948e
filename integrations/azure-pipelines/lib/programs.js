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
    if (inside.length !== 1 || inside[0] !== name) throw new Error(`${platform.name} holds ${inside.join(', ')}, not ${name} alone`);
    const file = path.join(folder, platform.name, name);
    const actual = platformOf(file);
    if (actual !== platform.name) throw new Error(`${file} is a program for ${actual || 'an unknown platform'}`);
    return { ...platform, file, inside: `bin/${platform.name}/${name}` };
  });
}

/** What a page may say about them. */
function list(platforms) {
  const lines = platforms.map(({ title, run }) => `- ${title}${run ? '' : ': built, never run by the tests'}`);
  return lines.join('\n');
}

module.exports = { find, list };

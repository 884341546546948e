// What GitHub's own library writes for the same values. Usage: node core.mjs VALUES.json, with GITHUB_OUTPUT naming an empty file.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const values = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const package_ = path.join(values.packages, '@actions/core');
const main = JSON.parse(fs.readFileSync(path.join(package_, 'package.json'), 'utf8'));
const core = await import(pathToFileURL(path.join(package_, main.main ?? main.exports['.'].import)));
for (const [name, value] of values.outputs) core.setOutput(name, value);
for (const { type, text } of values.annotations) core[type](text, { title: 'ecr-push' });
for (const secret of values.secrets) core.setSecret(secret);

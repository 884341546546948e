// Runs a job of a workflow as GitHub's runner would run it in a shell, as far as the action of this repository needs it: the
// steps of the job and of composite actions, their `env`, the files that steps write, workflow commands that hide text.
//
// Usage: node runner.mjs JOB.json. The file names the folder of the npm packages, the workflow, the folder that stands for the
// action, and the contexts. Prints one JSON object. An expression that is more than the name of a value is refused.
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const yaml = createRequire(path.join(job.packages, 'x.js'))('js-yaml');
fs.mkdirSync(job.temp, { recursive: true });

function evaluate(text, contexts) {
  return String(text).replace(/\$\{\{(.*?)\}\}/gs, (_, expression) => {
    const words = expression.trim();
    if (!/^[a-z][\w-]*(\.[\w-]+)+$/i.test(words)) throw new Error(`more than a name: ${words}`);
    const value = words.split('.').reduce((value, key) => (value === undefined || value === null ? value : value[key]), contexts);
    return value === undefined || value === null ? '' : String(value);
  });
}

const evaluated = (map, contexts) =>
  Object.fromEntries(Object.entries(map ?? {}).map(([name, text]) => [name, evaluate(text, contexts)]));

// A file of values, by the rules of the runner's reader: `name=value`, or `name<<line`, lines, and that line again.
function readValues(file) {
  const text = fs.readFileSync(file, 'utf8');
  const values = {};
  let at = 0;
  const next = () => {
    if (at >= text.length) return null;
    const end = text.indexOf('\n', at);
    const line = end < 0 ? text.slice(at) : text.slice(at, end);
    at = end < 0 ? text.length : end + 1;
    return line;
  };
  for (let line = next(); line !== null; line = next()) {
    if (line === '') continue;
    const equals = line.indexOf('=');
    const heredoc = line.indexOf('<<');
    if (equals >= 0 && (heredoc < 0 || equals < heredoc)) {
      if (equals === 0) throw new Error(`no name: ${line}`);
      values[line.slice(0, equals)] = line.slice(equals + 1);
    } else if (heredoc >= 0) {
      const name = line.slice(0, heredoc);
      const delimiter = line.slice(heredoc + 2);
      if (name === '' || delimiter === '') throw new Error(`no name or no delimiter: ${line}`);
      const lines = [];
      for (;;) {
        const part = next();
        if (part === null) throw new Error(`no end of ${name}`);
        if (part === delimiter) break;
        lines.push(part);
      }
      values[name] = lines.join('\n');
    } else {
      throw new Error(`neither form: ${line}`);
    }
  }
  return values;
}

const masks = [];
const hide = (text) => masks.reduce((text, secret) => text.replaceAll(secret, '***'), text);
const unescape = (text) => text.replace(/%0D/g, '\r').replace(/%0A/g, '\n').replace(/%25/g, '%');

const log = [];
const annotations = [];
let raw = '';

// One stream of a step: its lines, without what is hidden by now.
function take(line) {
  raw += line + '\n';
  const command = /^\s*::([a-z-]+)( [^:]*)?::(.*)$/s.exec(line);
  if (command?.[1] === 'add-mask') {
    unescape(command[3]).split(/\r?\n/).filter(Boolean).forEach((secret) => masks.push(secret));
    masks.sort((a, b) => b.length - a.length);
    return;
  }
  if (['error', 'warning', 'notice'].includes(command?.[1])) {
    annotations.push({ type: command[1], text: unescape(hide(command[3])), line: hide(line) });
  }
  log.push(hide(line));
}

async function shell(script, env, stopAt) {
  const id = randomUUID();
  const file = path.join(job.temp, `${id}.sh`);
  fs.writeFileSync(file, script.replace(/\n?$/, '\n'));
  const files = {};
  for (const name of ['GITHUB_OUTPUT', 'GITHUB_ENV', 'GITHUB_PATH', 'GITHUB_STEP_SUMMARY', 'GITHUB_STATE']) {
    files[name] = path.join(job.temp, `${name.toLowerCase()}_${id}`);
    fs.writeFileSync(files[name], '');
  }
  const child = spawn('bash', ['--noprofile', '--norc', '-e', '-o', 'pipefail', file], {
    cwd: job.workspace,
    env: { ...job.environment, ...jobEnv, ...env, ...files },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const started = Date.now();
  let stopped = false;
  for (const stream of [child.stdout, child.stderr]) {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('data', (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      lines.forEach(take);
      // The runner sends its signal to the one process that it started.
      if (stopAt && !stopped && raw.includes(stopAt)) {
        stopped = true;
        child.kill('SIGINT');
      }
    });
    stream.on('end', () => rest && take(rest));
  }
  const [status, signal] = await new Promise((done) => child.on('close', (...end) => done(end)));
  const step = { status, signal, milliseconds: Date.now() - started, summary: fs.readFileSync(files.GITHUB_STEP_SUMMARY, 'utf8') };
  step.file = fs.readFileSync(files.GITHUB_OUTPUT, 'utf8');
  step.outputs = readValues(files.GITHUB_OUTPUT);
  // What holds a hidden text does not arrive.
  for (const [name, value] of Object.entries(step.outputs)) {
    if (hide(value) !== value) delete step.outputs[name];
  }
  return step;
}

async function composite(folder, inputs, base) {
  const action = yaml.load(fs.readFileSync(path.join(folder, 'action.yml'), 'utf8'));
  if (action.runs.using !== 'composite') throw new Error('no composite action');
  for (const name of Object.keys(inputs)) {
    if (!(name in action.inputs)) throw new Error(`the action has no input ${name}`);
  }
  const given = Object.fromEntries(
    Object.entries(action.inputs).map(([name, input]) => [name, inputs[name] ?? input.default ?? '']),
  );
  const contexts = { ...base, inputs: given, steps: {}, github: { ...base.github, ...job.action.context } };
  let last;
  for (const step of action.runs.steps) {
    if (/\$\{\{/.test(step.run)) throw new Error('an expression in `run`');
    if (step.shell !== 'bash') throw new Error('another shell than bash');
    const env = { ...evaluated(step.env, contexts), GITHUB_ACTION_PATH: folder, ...job.token };
    last = await shell(step.run, env, job.stopAt);
    contexts.steps[step.id] = { outputs: last.outputs };
    if (last.status !== 0) break;
  }
  const outputs = Object.entries(action.outputs).map(([name, output]) => [name, evaluate(output.value, contexts)]);
  return { ...last, outputs: Object.fromEntries(outputs) };
}

// The runner's endpoint for identity tokens.
const asked = [];
async function identities() {
  if (!job.identity) return null;
  const server = createServer((request, response) => {
    asked.push({ method: request.method, url: request.url, authorization: request.headers.authorization });
    if (job.identity.silent) return;
    response.writeHead(job.identity.status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(job.identity.answer));
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  job.token = {
    ACTIONS_ID_TOKEN_REQUEST_URL: `http://127.0.0.1:${server.address().port}/token?api-version=2.0`,
    ACTIONS_ID_TOKEN_REQUEST_TOKEN: job.identity.secret,
  };
  return server;
}

const server = await identities();
const workflow = yaml.load(fs.readFileSync(job.workflow, 'utf8'));
const [definition] = Object.values(workflow.jobs);
// With `permissions: id-token: write` the runner gives every step the endpoint; without it, none.
if (workflow.permissions?.['id-token'] !== 'write') delete job.token;
Object.values(job.contexts.secrets ?? {}).forEach((secret) => masks.push(secret));
const jobEnv = evaluated(definition.env, job.contexts);
const contexts = { ...job.contexts, steps: {}, env: jobEnv };
const steps = [];
for (const step of definition.steps) {
  if (step.uses?.startsWith('actions/checkout@')) continue;
  let done;
  if (step.uses) {
    if (step.uses !== job.action.uses) throw new Error(`another action: ${step.uses}`);
    done = await composite(job.action.folder, { ...evaluated(step.with, contexts), ...job.action.inputs }, contexts);
    job.stopAt = undefined;
  } else {
    done = await shell(evaluate(step.run, contexts), evaluated(step.env, contexts));
  }
  if (step.id) contexts.steps[step.id] = { outputs: done.outputs };
  steps.push(done);
  if (done.status !== 0) break;
}
server?.close();
server?.closeAllConnections();
console.log(JSON.stringify({ steps, log, raw, annotations, asked }));

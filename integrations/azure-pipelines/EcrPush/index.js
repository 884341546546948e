'use strict';
// The agent starts tasks in Node.js only, so this file starts the native program. It adds nothing of its own: environment, standard
// output, standard error and exit code are the program's. It has no dependency, since the usual task library would take inputs and
// secrets out of the environment. It runs on Node 10 and everything newer.
const fs = require('fs');
const os = require('os');
const path = require('path');
const { spawn } = require('child_process');

const windows = process.platform === 'win32';

/** Tells the agent that the task failed. With exit code 0 the agent adds no text of its own about Node.js. */
function fail(message) {
  const text = message.replace(/%/g, '%AZP25').replace(/\r/g, '%0D').replace(/\n/g, '%0A');
  console.log('##vso[task.issue type=error;]' + text);
  console.log('##vso[task.complete result=Failed;]' + text);
}

function isExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return true;
  } catch (_) {
    return false;
  }
}

/** Anything else would be run by a shell, which says nothing that an agent understands, or nothing at all. */
function isProgram(file) {
  const head = Buffer.alloc(4);
  const descriptor = fs.openSync(file, 'r');
  fs.readSync(descriptor, head, 0, 4, 0);
  fs.closeSync(descriptor);
  // ELF, Mach-O as 64-bit machines write it, and a script that names its own interpreter.
  return ['7f454c46', 'cffaedfe'].includes(head.toString('hex')) || head.toString('latin1', 0, 2) === '#!';
}

/** The program for this machine, and the folder to remove at the end if it had to be copied. */
function locate() {
  const platform = process.platform + '-' + process.arch;
  const packed = path.join(__dirname, 'bin', platform, windows ? 'ecr-push.exe' : 'ecr-push');
  if (!fs.existsSync(packed)) {
    throw new Error('This task holds no program for ' + platform + ' (looked for ' + packed + ').');
  }
  if (windows) return { program: packed };
  if (!isProgram(packed)) throw new Error('The program of this task is damaged: ' + packed);
  // A VSIX keeps no permission bits.
  if (isExecutable(packed)) return { program: packed };
  try {
    fs.chmodSync(packed, 0o755);
  } catch (_) {
    // The folder of a container job may be mounted read-only, or belong to another user.
  }
  // It may also be mounted so that nothing in it can be run.
  if (isExecutable(packed)) return { program: packed };
  const folder = fs.mkdtempSync(path.join(process.env.AGENT_TEMPDIRECTORY || os.tmpdir(), 'ecr-push-'));
  const program = path.join(folder, 'ecr-push');
  fs.copyFileSync(packed, program);
  fs.chmodSync(program, 0o700);
  return { program, folder };
}

function remove(folder) {
  if (!folder) return;
  try {
    fs.unlinkSync(path.join(folder, 'ecr-push'));
    fs.rmdirSync(folder);
  } catch (_) {
    // The agent empties its temporary folder after the job.
  }
}

function run({ program, folder }) {
  // Before the program is there: on a busy machine it can be at work, and the agent's signal here, before this goes on.
  let child;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK']) {
    try {
      // On Windows the console tells the child itself, and `kill` would end it at once.
      process.on(signal, () => windows || child.kill(signal));
    } catch (_) {
      // A signal that this system does not have.
    }
  }
  // Nothing is ever written to the child's standard input. Its end tells the program that this process is gone, even when it was
  // killed: the agent kills this process alone, and the program would otherwise push on.
  child = spawn(program, ['azure-task', '--parent-pipe'], { stdio: ['pipe', 'inherit', 'inherit'] });
  // Node.js 10 gives none if the program cannot be started.
  if (child.stdin) child.stdin.on('error', () => {});
  child.on('error', (error) => {
    remove(folder);
    fail('The program of this task could not be started: ' + error.message);
  });
  child.on('exit', (code, signal) => {
    remove(folder);
    if (signal) {
      fail('The program of this task was ended by ' + signal + '.');
      // The code a shell would give: for 137 the agent adds a hint about memory.
      process.exitCode = 128 + os.constants.signals[signal];
    } else {
      // The program ends with 0 whatever came of the push, and says itself what that was.
      if (code) fail('The program of this task ended with code ' + code + '.');
      process.exitCode = code;
    }
  });
}

try {
  run(locate());
} catch (error) {
  fail('The program of this task could not be started: ' + error.message);
}

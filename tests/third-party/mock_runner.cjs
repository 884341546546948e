'use strict';
// Runs a task by the test runner of azure-pipelines-task-lib, in this process's environment, and prints what it made of it as JSON.
// Arguments: the library's folder, the Node.js to run the task with, the task's script.
const childProcess = require('child_process');
const path = require('path');
const [library, node, script] = process.argv.slice(2);

// The runner keeps the output and drops how the task ended.
const { spawnSync } = childProcess;
let ended = {};
childProcess.spawnSync = (program, words, options) => (ended = spawnSync(program, words, { maxBuffer: 1 << 28, ...options }));

const { MockTestRunner } = require(path.join(library, 'mock-test'));
const { commandFromString } = require(path.join(library, 'taskcommand'));

(async () => {
  const runner = new MockTestRunner(script);
  // Otherwise it downloads the Node.js it knows for the task's handlers.
  runner.nodePath = node;
  await runner.runAsync();
  const lines = runner.stdout.split(/\r\n|\r|\n/).filter((line) => line.includes('##vso['));
  const commands = lines.map((line) => {
    const { command, properties, message } = commandFromString(line.slice(line.indexOf('##vso[')));
    return { name: command, properties: { ...properties }, data: message };
  });
  const { succeeded, errorIssues, warningIssues, stdout, stderr } = runner;
  const { status, signal } = ended;
  process.stdout.write(JSON.stringify({ succeeded, errorIssues, warningIssues, stdout, stderr, commands, status, signal }));
})();

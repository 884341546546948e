// Stands in for the program that the task starts. Says what it was given; then does what STAND_IN tells it.
'use strict';
const fs = require('fs');
const environment = fs.readFileSync('/proc/self/environ', 'utf8').split('\0').filter(Boolean);
fs.writeSync(1, JSON.stringify({ words: process.argv.slice(2), program: process.argv[1], environment }) + '\n');
const [, order, value] = /^(\w+) ([^]*)$/.exec(process.env.STAND_IN || 'exit 0');
if (order === 'say') fs.writeSync(1, value + '\n');
if (order === 'exit') process.exitCode = Number(value);
if (order === 'die') process.kill(process.pid, value);
if (order === 'wait') {
  const note = (text) => fs.appendFileSync(value, text + '\n');
  const timer = setInterval(() => {}, 1000);
  // The first signal is noted, the second ends it, as a program may need time to stop.
  let seen = 0;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      note(signal);
      if (++seen === 2) process.exit(7);
    });
  }
  process.stdin.on('end', () => {
    note('end of input');
    clearInterval(timer);
    process.exit(0);
  });
  process.stdin.resume();
  note('ready');
}

'use strict';
// What Azure DevOps asks of a task.json and of an extension's manifest, as far as it is documented. `tfx` checks a part of it and only
// warns; the rest shows when an organisation installs the extension.

const GUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const CATEGORIES = ['Build', 'Utility', 'Test', 'Package', 'Deploy'];
const INPUT_TYPES = ['boolean', 'filePath', 'int', 'multiLine', 'pickList', 'radio', 'secureFile', 'string'];
/** The newest first, as they are to stand in task.json. */
const HANDLERS = ['Node24', 'Node20_1', 'Node16', 'Node10'];
/** The Marketplace takes no brand in the name of an extension (learn.microsoft.com, "Package and publish extensions"). */
const BRAND = /\b(aws|amazon|ecr\w*|lambda|docker|podman|azure|azdo|microsoft|visual studio|github|gitlab|vsts|tfs)\b/i;
/** What that page calls a screenshot and an icon. */
const SCREENSHOT = '1366x768';
const SMALLEST_ICON = 128;

const TASK_KEYS = {
  id: 'string!', name: 'string!', friendlyName: 'string!', description: 'string!', author: 'string!', helpMarkDown: 'string',
  helpUrl: 'string', category: 'string!', visibility: 'array!', runsOn: 'array', demands: 'array', version: 'object!',
  minimumAgentVersion: 'string', instanceNameFormat: 'string!', groups: 'array', inputs: 'array!', outputVariables: 'array',
  restrictions: 'object', execution: 'object!', preview: 'boolean', deprecated: 'boolean', releaseNotes: 'string',
  showEnvironmentVariables: 'boolean', messages: 'object',
};
const INPUT_KEYS = {
  name: 'string!', type: 'string!', label: 'string!', defaultValue: 'string or boolean', required: 'boolean', helpMarkDown: 'string',
  groupName: 'string', visibleRule: 'string', options: 'object', properties: 'object', aliases: 'array',
};
const OUTPUT_KEYS = { name: 'string!', description: 'string!' };
const GROUP_KEYS = { name: 'string!', displayName: 'string!', isExpanded: 'boolean', visibleRule: 'string' };
const HANDLER_KEYS = { target: 'string!', argumentFormat: 'string', platforms: 'array', workingDirectory: 'string' };
const VERSION_KEYS = { Major: 'number!', Minor: 'number!', Patch: 'number!' };

function kind(value) {
  if (Array.isArray(value)) return 'array';
  return value === null ? 'null' : typeof value;
}

/** What is wrong with the keys of `object`: unknown ones, missing ones (marked `!` in `keys`), and values of another type. */
function* shape(object, keys, where) {
  if (kind(object) !== 'object') return yield `${where}: not an object`;
  for (const key of Object.keys(object)) {
    if (!(key in keys)) yield `${where}: unknown key ${key}`;
    else if (!keys[key].replace('!', '').split(' or ').includes(kind(object[key]))) yield `${where}: ${key} is not a ${keys[key]}`;
  }
  for (const key of Object.keys(keys)) {
    if (keys[key].endsWith('!') && !(key in object)) yield `${where}: ${key} is missing`;
  }
}

function* repeated(values, where) {
  const lower = values.map((value) => String(value).toLowerCase());
  for (const value of new Set(lower.filter((value, at) => lower.indexOf(value) !== at))) yield `${where}: ${value} occurs twice`;
}

/** Whether a visibility rule, as in `imageSource = imagename`, can ever be true. */
function* visible(rule, inputs, where) {
  for (const term of rule.split(/&&|\|\|/)) {
    const parts = /^\s*(\w+)\s*(==?|!=)\s*(\S+)\s*$/.exec(term);
    if (!parts) {
      yield `${where}: visibleRule cannot be read: ${term}`;
      continue;
    }
    const input = inputs.find((one) => one.name === parts[1]);
    if (!input) yield `${where}: visibleRule names ${parts[1]}, which is no input`;
    else if (input.options && !(parts[3] in input.options)) yield `${where}: ${parts[3]} is no option of ${parts[1]}`;
  }
}

function* checkInput(input, task, where) {
  yield* shape(input, INPUT_KEYS, where);
  if (!/^[A-Za-z][A-Za-z0-9]*$/.test(input.name)) yield `${where}: a name is letters and digits`;
  if (!INPUT_TYPES.includes(input.type) && !/^connectedService:.+$/.test(input.type)) yield `${where}: unknown type ${input.type}`;
  if (['radio', 'pickList'].includes(input.type)) {
    if (kind(input.options) !== 'object' || !Object.keys(input.options).length) yield `${where}: options are missing`;
    else if (input.defaultValue && !(input.defaultValue in input.options)) yield `${where}: the default is no option`;
  }
  if (input.type === 'boolean' && !/^(true|false)$/.test(input.defaultValue)) yield `${where}: the default is not true or false`;
  const editable = input.properties && input.properties.EditableOptions;
  if (editable !== undefined && !['True', 'False'].includes(editable)) yield `${where}: EditableOptions is True or False`;
  if (input.groupName && !(task.groups || []).some((group) => group.name === input.groupName)) {
    yield `${where}: group ${input.groupName} is not declared`;
  }
  if (input.visibleRule) yield* visible(input.visibleRule, task.inputs, where);
}

/** What is wrong with a task.json. `exists` says whether a file of the task's folder is there. */
function* checkTask(task, exists) {
  yield* shape(task, TASK_KEYS, 'task');
  if (!GUID.test(task.id)) yield 'task: id is not a lower-case GUID';
  if (!/^[A-Za-z0-9-]+$/.test(task.name)) yield 'task: a name is letters, digits and hyphens';
  if (String(task.friendlyName).length > 40) yield 'task: friendlyName is longer than 40 characters';
  if (!CATEGORIES.includes(task.category)) yield `task: unknown category ${task.category}`;
  yield* shape(task.version, VERSION_KEYS, 'task: version');
  if (!Object.values(task.version || {}).every((part) => Number.isInteger(part) && part >= 0)) yield 'task: a version is whole numbers';
  if (!/^\d+\.\d+(\.\d+)?$/.test(task.minimumAgentVersion || '1.0')) yield 'task: minimumAgentVersion is not a version';
  for (const place of task.visibility || []) if (!['Build', 'Release'].includes(place)) yield `task: unknown visibility ${place}`;
  for (const group of task.groups || []) yield* shape(group, GROUP_KEYS, `group ${group.name}`);
  for (const input of task.inputs || []) yield* checkInput(input, task, `input ${input.name}`);
  yield* repeated((task.inputs || []).flatMap((input) => [input.name, ...(input.aliases || [])]), 'inputs');
  yield* repeated((task.groups || []).map((group) => group.name), 'groups');
  for (const output of task.outputVariables || []) yield* shape(output, OUTPUT_KEYS, `output ${output.name}`);
  yield* repeated((task.outputVariables || []).map((output) => output.name), 'outputs');
  if (!Object.keys(task.execution || {}).length) yield 'task: no handler';
  const known = Object.keys(task.execution || {}).filter((name) => HANDLERS.includes(name));
  if (known.join() !== HANDLERS.filter((name) => known.includes(name)).join()) yield 'task: handlers are not in order, the newest first';
  for (const [name, handler] of Object.entries(task.execution || {})) {
    if (!HANDLERS.includes(name)) yield `task: handler ${name} is not one of ${HANDLERS.join(', ')}`;
    yield* shape(handler, HANDLER_KEYS, `handler ${name}`);
    if (!exists(handler.target)) yield `handler ${name}: ${handler.target} does not exist`;
  }
  if (!exists('icon.png')) yield 'task: icon.png does not exist';
}

/** What is wrong with an extension's manifest. `size` gives width and height of an image, if it is there. */
function* checkManifest(manifest, size) {
  const { id, publisher, version, name, description, targets, files, contributions } = manifest;
  if (manifest.manifestVersion !== 1) yield 'manifest: manifestVersion is 1';
  if (!/^[A-Za-z0-9][A-Za-z0-9-]*$/.test(id)) yield 'manifest: an id is letters, digits and hyphens';
  if (!/^[A-Za-z0-9][A-Za-z0-9-]*$/.test(publisher)) yield 'manifest: a publisher is letters, digits and hyphens';
  if (!/^\d+\.\d+\.\d+$/.test(version)) yield 'manifest: version is three numbers';
  if (!name || name.length > 100) yield 'manifest: a name has 1 to 100 characters';
  const brand = BRAND.exec(name);
  if (brand) yield `manifest: the name holds the brand ${brand[0]}, which the Marketplace refuses`;
  if (!description || description.length > 200) yield 'manifest: a description has 1 to 200 characters';
  const icon = size(manifest.icons.default);
  if (!icon || Math.min(...icon) < SMALLEST_ICON) yield `manifest: the icon is not a PNG of ${SMALLEST_ICON} pixels or more`;
  for (const { path } of manifest.screenshots || []) {
    const found = size(path);
    if (!found || found.join('x') !== SCREENSHOT) yield `manifest: ${path} is not a PNG of ${SCREENSHOT} pixels`;
  }
  if (!targets || !targets.length) yield 'manifest: targets are missing';
  yield* repeated((contributions || []).map((one) => one.id), 'contributions');
  for (const one of contributions || []) {
    if (!/^[A-Za-z0-9.-]+$/.test(one.id)) yield `contribution ${one.id}: an id is letters, digits, dots and hyphens`;
    if (!one.type || !one.targets || !one.targets.length) yield `contribution ${one.id}: type or targets are missing`;
    if (one.type === 'ms.vss-distributed-task.task' && !files.some((file) => file.path === one.properties.name)) {
      yield `contribution ${one.id}: the folder ${one.properties.name} is not among the files`;
    }
  }
}

module.exports = { checkTask, checkManifest };

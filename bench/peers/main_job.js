// The main job on Node.js: Promise.all of async functions. A yield is `await null`, a microtask: cheaper than a turn of
// Node's loop. Node cannot have a function called by another thread, so it has no executor. Arguments and the rule of
// sampling are those of bench/driver.hpp. Run it with --expose-gc, so that each sample begins with a clean heap.
'use strict';
const { Worker } = require('worker_threads');

const options = { works: '', sizes: '2000,10000,100000,1000000', runs: '7', budget: '4', 'sample-ms': '30' };
for (let i = 2; i < process.argv.length; i += 2) {
  const name = process.argv[i].replace(/^--/, '');
  if (!(name in options)) {
    console.error(`unknown argument ${process.argv[i]}`);
    process.exit(2);
  }
  options[name] = process.argv[i + 1];
}
const works = options.works ? options.works.split(',') : null;
const sizes = options.sizes.split(',').map(Number);
const runs = Number(options.runs);
const sampleNs = Number(options['sample-ms']) * 1e6;
const now = () => Number(process.hrtime.bigint());

// One sample: its metered time and its time on the wall.
async function take(work, n, count, rounds) {
  if (global.gc) global.gc();
  const cpu = process.cpuUsage();
  const began = now();
  await rounds(n, count);
  const wall = now() - began;
  const used = process.cpuUsage(cpu);
  return [work.cpu ? (used.user + used.system) * 1e3 : wall, wall];
}

function report(work, n, samples, walls) {
  const ascending = (a, b) => a - b;
  samples.sort(ascending);
  walls.sort(ascending);
  const middle = samples.length >> 1;
  let line = `RESULT peer=node work=${work.name} N=${n} threads=${work.threads} ns=${samples[middle].toFixed(2)} ` +
    `min=${samples[0].toFixed(2)} max=${samples[samples.length - 1].toFixed(2)} runs=${samples.length}`;
  if (work.cpu) line += ` wall_ms=${(walls[middle] / 1e6).toFixed(2)}`;
  console.log(line);
}

async function measure(name, threads, ns, rounds, cpu = false) {
  if (works && !works.includes(name)) return;
  const work = { name, threads, cpu };
  const end = now() + Number(options.budget) * 1e9;
  let itemNs = 0;
  for (let i = 0; i < ns.length; i++) {
    const n = ns[i];
    const left = end - now();
    if (itemNs * n > left) {
      console.log(`SKIP peer=node work=${name} N=${n} reason=budget predicted_s=${(itemNs * n / 1e9).toFixed(1)}`);
      continue;
    }
    const until = now() + left / (ns.length - i);
    const samples = [], walls = [];
    let [metered, wall] = await take(work, n, 1, rounds);
    if (wall < sampleNs) {
      [, wall] = await take(work, n, 1, rounds);
    } else {
      samples.push(metered / n);
      walls.push(wall);
    }
    itemNs = wall / n;
    const count = cpu ? 1 : Math.max(1, Math.floor(sampleNs / wall));
    while (samples.length === 0 || (samples.length < runs && now() < until)) {
      [metered, wall] = await take(work, n, count, rounds);
      samples.push(metered / (n * count));
      walls.push(wall);
    }
    report(work, n, samples, walls);
  }
}

const immediate = async (i) => i;
const yielding = async (i) => {
  await null;
  return i;
};
const sleeping = async (i) => {
  await new Promise((resolve) => setTimeout(resolve, 1 + i % 10));
  return i;
};

const gather = (make) => async (n, count) => {
  for (; count > 0; count--) {
    const promises = new Array(n);
    for (let i = 0; i < n; i++) promises[i] = make(i);
    const results = await Promise.all(promises);
    for (let i = 0; i < n; i++) {
      if (results[i] !== i) throw new Error('wrong result: a result is not in its place');
    }
  }
};

async function yields(n, count) {
  for (let i = n * count; i > 0; i--) await null;
}

async function wake() {
  if (works && !works.includes('wake')) return;
  const echo = "const { parentPort } = require('worker_threads'); " +
    "parentPort.on('message', (message) => parentPort.postMessage(message));";
  const other = new Worker(echo, { eval: true });
  const thereAndBack = (i) => new Promise((resolve) => {
    other.once('message', resolve);
    other.postMessage(i);
  });
  await thereAndBack(0);
  await measure('wake', 2, [5000], async (n, count) => {
    for (let i = n * count; i > 0; i--) await thereAndBack(i);
  });
  await other.terminate();
}

async function main() {
  await measure('gather_imm', 1, sizes, gather(immediate));
  await measure('gather_yield', 1, sizes, gather(yielding));
  await measure('gather_sleep', 1, sizes, gather(sleeping), true);
  await measure('spawn_join', 1, sizes, gather(immediate));
  await measure('yield', 1, [1000000], yields);
  await wake();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

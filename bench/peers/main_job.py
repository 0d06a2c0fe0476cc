#!/usr/bin/env python3
"""The main job on Python: main_job.py asyncio|uvloop [arguments].

Arguments and the rule of sampling are those of bench/driver.hpp.
"""
import argparse
import asyncio
import gc
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("asyncio", "uvloop"))
    parser.add_argument("--works", default="")
    parser.add_argument("--sizes", default="2000,10000,100000,1000000")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--budget", type=float, default=4)
    parser.add_argument("--sample-ms", type=float, default=30)
    return parser.parse_args()


options = parse()
sizes = [int(n) for n in options.sizes.split(",")]
works = options.works.split(",") if options.works else None


async def take(n, count, rounds):
    """One sample: its processor time and its time on the wall."""
    gc.collect()
    cpu = time.process_time_ns()
    began = time.perf_counter_ns()
    await rounds(n, count)
    wall = time.perf_counter_ns() - began
    return time.process_time_ns() - cpu, wall


def report(name, n, threads, samples, walls, by_cpu):
    line = (f"RESULT peer={options.peer} work={name} N={n} threads={threads} ns={statistics.median(samples):.2f} "
            f"min={min(samples):.2f} max={max(samples):.2f} runs={len(samples)}")
    if by_cpu:
        line += f" wall_ms={statistics.median(walls) / 1e6:.2f}"
    print(line, flush=True)


async def measure(name, threads, ns, rounds, by_cpu=False):
    if works is not None and name not in works:
        return
    end = time.perf_counter_ns() + options.budget * 1e9
    item_ns = 0
    for i, n in enumerate(ns):
        left = end - time.perf_counter_ns()
        if item_ns * n > left:
            predicted = f"predicted_s={item_ns * n / 1e9:.1f}"
            print(f"SKIP peer={options.peer} work={name} N={n} reason=budget {predicted}", flush=True)
            continue
        until = time.perf_counter_ns() + left / (len(ns) - i)
        samples, walls = [], []
        cpu, wall = await take(n, 1, rounds)
        if wall < options.sample_ms * 1e6:
            cpu, wall = await take(n, 1, rounds)
        else:
            samples.append((cpu if by_cpu else wall) / n)
            walls.append(wall)
        item_ns = wall / n
        count = 1 if by_cpu else max(1, int(options.sample_ms * 1e6 / wall))
        while not samples or (len(samples) < options.runs and time.perf_counter_ns() < until):
            cpu, wall = await take(n, count, rounds)
            samples.append((cpu if by_cpu else wall) / (n * count))
            walls.append(wall)
        report(name, n, threads, samples, walls, by_cpu)


async def immediate(i):
    return i


async def yielding(i):
    await asyncio.sleep(0)
    return i


async def sleeping(i):
    await asyncio.sleep(0.001 * (1 + i % 10))
    return i


def check(results, n):
    if results != list(range(n)):
        sys.exit("wrong result: a result is not in its place")


def gather(make):
    async def rounds(n, count):
        for _ in range(count):
            check(await asyncio.gather(*[make(i) for i in range(n)]), n)
    return rounds


async def spawn_join(n, count):
    for _ in range(count):
        tasks = [asyncio.create_task(immediate(i)) for i in range(n)]
        check([await task for task in tasks], n)


async def yields(n, count):
    for _ in range(n * count):
        await asyncio.sleep(0)


async def wake():
    if works is not None and "wake" not in works:
        return
    here = asyncio.get_running_loop()
    there = asyncio.new_event_loop()
    other = threading.Thread(target=there.run_forever)
    other.start()

    async def rounds(n, count):
        done = here.create_future()
        left = n * count

        def back():
            nonlocal left
            left -= 1
            if left == 0:
                done.set_result(None)
            else:
                there.call_soon_threadsafe(arrive)

        def arrive():
            here.call_soon_threadsafe(back)

        there.call_soon_threadsafe(arrive)
        await done

    await measure("wake", 2, [2000], rounds)
    there.call_soon_threadsafe(there.stop)
    other.join()
    there.close()


def one():
    return 1


async def executor():
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(1)

    async def one_by_one(n, count):
        for _ in range(n * count):
            if await loop.run_in_executor(pool, one) != 1:
                sys.exit("wrong result: executor")

    async def at_once(n, count):
        for _ in range(count):
            if sum(await asyncio.gather(*[loop.run_in_executor(pool, one) for _ in range(n)])) != n:
                sys.exit("wrong result: executor")

    await measure("executor_single", 2, [2000], one_by_one)
    await measure("executor_10k", 2, [10000], at_once)
    pool.shutdown()


async def main():
    await measure("gather_imm", 1, sizes, gather(immediate))
    await measure("gather_yield", 1, sizes, gather(yielding))
    await measure("gather_sleep", 1, sizes, gather(sleeping), by_cpu=True)
    await measure("spawn_join", 1, sizes, spawn_join)
    await measure("yield", 1, [100000], yields)
    await wake()
    await executor()


if options.peer == "uvloop":
    import uvloop
    uvloop.install()
asyncio.run(main())

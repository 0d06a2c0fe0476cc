#!/usr/bin/env python3
"""The servers of tools/servers, as their clients see them: Python's asyncio and sockets, and where they are installed
curl, wrk, redis-cli, redis-benchmark and nc. Usage: servers_test.py --servers FOLDER [unittest's arguments]."""

import argparse
import asyncio
import contextlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SERVERS = Path()
PATIENCE = 60  # seconds, for anything
MEMORY = 100 << 20  # bytes, whatever clients do


@contextlib.contextmanager
def running(name, *arguments):
    """Starts a server on a free port; at the end SIGINT, which ends it well."""
    command = [str(SERVERS / name), "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("listening on "), (command, line)
            server.port = int(line.rsplit(":", 1)[1])
            yield server
            server.send_signal(signal.SIGINT)
            status = server.wait(PATIENCE)
            assert status == 0, (command, status)
        finally:
            server.kill()


def resident(server):
    """Bytes of memory that it has."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def connect(server):
    client = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    return client


def receive_all(client):
    data = bytearray()
    while piece := client.recv(1 << 16):
        data += piece
    return bytes(data)


def receive_exactly(client, size):
    data = bytearray()
    while len(data) < size:
        piece = client.recv(min(1 << 16, size - len(data)))
        if not piece:
            break
        data += piece
    return bytes(data)


def until(condition):
    """Waits for what follows by itself, and soon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class EchoTest(unittest.TestCase):
    STYLES = "streams", "protocol", "sockets"

    def each(self):
        for style in self.STYLES:
            for workers in 1, 4:
                with self.subTest(style=style, workers=workers), \
                        running("echo_server", "--style", style, "--workers", workers) as server:
                    yield server

    def test_everything_comes_back(self):
        async def client(server, seed):
            rng = random.Random(seed)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            sent = bytearray()

            async def send():
                for _ in range(30):
                    piece = rng.randbytes(rng.randrange(1, 20000))
                    sent.extend(piece)
                    writer.write(piece)
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            got = await reader.read()
            await sending
            writer.close()
            await writer.wait_closed()
            self.assertEqual(got, sent)

        async def clients(server):
            await asyncio.wait_for(asyncio.gather(*(client(server, seed) for seed in range(50))), PATIENCE)

        for server in self.each():
            before = descriptors(server)
            asyncio.run(clients(server))
            self.assertTrue(until(lambda: descriptors(server) <= before + 2), "descriptors are left")

    def test_who_does_not_read_is_not_read_from(self):
        for server in self.each():
            with connect(server) as client:
                client.setblocking(False)
                sent = 0
                with contextlib.suppress(BlockingIOError):
                    while sent < 1 << 28:
                        sent += client.send(bytes(1 << 16))
                self.assertLess(sent, 1 << 28, "it takes all, and keeps it")
                client.settimeout(PATIENCE)
                self.assertLess(resident(server), MEMORY)
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(len(receive_all(client)), sent)

    def test_connections_that_are_reset(self):
        for server in self.each():
            for size in range(20):
                client = connect(server)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.sendall(bytes(size * 1000))
                client.close()
            with connect(server) as client:
                client.sendall(b"still there")
                self.assertEqual(receive_exactly(client, 11), b"still there")

    @unittest.skipUnless(shutil.which("nc"), "nc is not installed")
    def test_nc(self):
        for server in self.each():
            done = subprocess.run(["nc", "-N", "127.0.0.1", str(server.port)], input=b"hello\n", timeout=PATIENCE,
                                  stdout=subprocess.PIPE, check=True)
            self.assertEqual(done.stdout, b"hello\n")


class ProxyTest(unittest.TestCase):
    def test_both_directions_end_by_themselves(self):
        for workers in 1, 4:
            with self.subTest(workers=workers), socket.create_server(("127.0.0.1", 0)) as upstream:
                upstream.settimeout(PATIENCE)
                port = upstream.getsockname()[1]
                with running("tcp_proxy", "--upstream-port", port, "--workers", workers) as server:
                    with connect(server) as client:
                        behind, _ = upstream.accept()
                        with behind:
                            behind.settimeout(PATIENCE)
                            client.sendall(b"a question")
                            client.shutdown(socket.SHUT_WR)
                            self.assertEqual(receive_all(behind), b"a question")
                            behind.sendall(b"the answer")
                        self.assertEqual(receive_all(client), b"the answer")

    def test_through_an_echo_server(self):
        with running("echo_server") as echo, running("tcp_proxy", "--upstream-port", echo.port) as server:
            data = random.Random(1).randbytes(1 << 22)

            async def client():
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

                async def send():
                    writer.write(data)
                    await writer.drain()
                    writer.write_eof()

                sending = asyncio.create_task(send())
                got = await asyncio.wait_for(reader.read(), PATIENCE)
                await sending
                writer.close()
                self.assertEqual(got, data)

            async def clients():
                await asyncio.gather(*(client() for _ in range(5)))

            asyncio.run(clients())

    def test_an_upstream_that_is_not_there(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with running("tcp_proxy", "--upstream-port", port) as server:
            for _ in range(3):
                with connect(server) as client:
                    self.assertEqual(receive_all(client), b"")

    def test_a_side_that_breaks_the_connection(self):
        with socket.create_server(("127.0.0.1", 0)) as upstream:
            upstream.settimeout(PATIENCE)
            with running("tcp_proxy", "--upstream-port", upstream.getsockname()[1]) as server:
                before = descriptors(server)
                with connect(server) as client:
                    behind, _ = upstream.accept()
                    client.sendall(b"x")
                    self.assertEqual(behind.recv(1), b"x")
                    behind.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    behind.close()
                    self.assertEqual(receive_all(client), b"")
                self.assertTrue(until(lambda: descriptors(server) <= before + 1), "descriptors are left")


class ChatTest(unittest.TestCase):
    def guest(self, server, name):
        client = connect(server)
        self.addCleanup(client.close)
        lines = client.makefile("rw", newline="\n")
        self.addCleanup(lines.close)
        self.assertEqual(lines.readline(), "What is your name?\n")
        lines.write(name + "\n")
        lines.flush()
        return client, lines

    def test_a_conversation(self):
        with running("chat_server") as server:
            _, ann = self.guest(server, "ann")
            self.assertEqual(ann.readline(), "* Here are: nobody\n")
            _, bob = self.guest(server, "ann")
            self.assertIn("nobody else's here", bob.readline())
            bob.write("b/b\nbob\n")
            bob.flush()
            self.assertIn("letters and digits", bob.readline())
            self.assertEqual(bob.readline(), "* Here are: ann\n")
            self.assertEqual(ann.readline(), "* bob is here\n")
            ann.write("hello \x1b[31mbob\r\n\n")
            ann.flush()
            self.assertEqual(bob.readline(), "<ann> hello [31mbob\n")
            bob.write("x" * 5000 + "\n")
            bob.flush()
            self.assertEqual(bob.readline(), "* Too long. Goodbye.\n")
            self.assertEqual(ann.readline(), "* bob has left\n")

    def test_who_does_not_read_is_dropped(self):
        with running("chat_server") as server:
            deaf, _ = self.guest(server, "deaf")
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client, ann = self.guest(server, "ann")
            self.assertEqual(ann.readline(), "* Here are: deaf\n")
            line = b"x" * 900 + b"\n"
            for _ in range(100000):
                client.sendall(line)
                if select.select([client], [], [], 0)[0]:
                    break
            self.assertEqual(ann.readline(), "* deaf has left\n")


class RedisTest(unittest.TestCase):
    def expect(self, client, request, reply):
        if isinstance(request, str):
            words = request.split()
            request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
        client.sendall(request)
        self.assertEqual(receive_exactly(client, len(reply)), reply, request)

    def test_commands(self):
        for workers in 1, 4:
            with self.subTest(workers=workers), running("redis_server", "--workers", workers) as server, \
                    connect(server) as client:
                for request, reply in [
                        ("PING", b"+PONG\r\n"), ("ping hi", b"$2\r\nhi\r\n"), ("GET a", b"$-1\r\n"),
                        ("SET a 1", b"+OK\r\n"), ("GET a", b"$1\r\n1\r\n"), ("INCR a", b":2\r\n"),
                        ("DECRBY a 5", b":-3\r\n"), ("INCRBY a x", b"-ERR value is not an integer or out of range\r\n"),
                        ("INCRBY a 9223372036854775807", b":9223372036854775804\r\n"),
                        ("INCRBY a 9223372036854775807", b"-ERR increment or decrement would overflow\r\n"),
                        ("APPEND b xy", b":2\r\n"), ("STRLEN b", b":2\r\n"), ("EXISTS a b c", b":2\r\n"),
                        ("INCR b", b"-ERR value is not an integer or out of range\r\n"),
                        ("MSET m 1 n 2", b"+OK\r\n"), ("MGET m x n", b"*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n"),
                        ("MSET m", b"-ERR wrong number of arguments for 'MSET' command\r\n"),
                        ("SET a 1 NX", b"$-1\r\n"), ("SET z 1 XX", b"$-1\r\n"),
                        ("SET a 7 XX GET", b"$19\r\n9223372036854775804\r\n"),
                        ("SET a 1 NX XX", b"-ERR syntax error\r\n"), ("SET a 1 EX", b"-ERR syntax error\r\n"),
                        ("SET a 1 EX 0", b"-ERR invalid expire time in 'set' command\r\n"),
                        ("SET t 1 EX 100", b"+OK\r\n"), ("TTL t", b":100\r\n"), ("PERSIST t", b":1\r\n"),
                        ("TTL t", b":-1\r\n"), ("TTL none", b":-2\r\n"), ("EXPIRE t 50", b":1\r\n"),
                        ("TTL t", b":50\r\n"),
                        ("EXPIRE t 0", b":1\r\n"), ("EXISTS t", b":0\r\n"), ("TYPE a", b"+string\r\n"),
                        ("DEL a b x", b":2\r\n"), ("DBSIZE", b":2\r\n"), ("FLUSHALL", b"+OK\r\n"),
                        ("DBSIZE", b":0\r\n"),
                        ("SELECT 1", b"-ERR DB index is out of range\r\n"), ("SELECT 0", b"+OK\r\n"),
                        ("NONSENSE", b"-ERR unknown command 'NONSENSE'\r\n"), (b"\r\n  PING  \r\n", b"+PONG\r\n"),
                        ("QUIT", b"+OK\r\n")]:
                    self.expect(client, request, reply)
                self.assertEqual(client.recv(1), b"")

    def test_a_key_ends_by_itself(self):
        with running("redis_server") as server, connect(server) as client:
            self.expect(client, "SET t 1 PX 1", b"+OK\r\n")

            def gone():
                client.sendall(b"EXISTS t\r\n")
                return receive_exactly(client, 4) == b":0\r\n"

            self.assertTrue(until(gone))

    def test_any_cut_of_many_requests(self):
        requests = b"".join(b"*3\r\n$3\r\nSET\r\n$3\r\nk%02d\r\n$4\r\n\r\n$1\r\n" % i for i in range(100))
        requests += b"GET k50\r\n" * 3
        replies = b"+OK\r\n" * 100 + b"$4\r\n\r\n$1\r\n" * 3
        rng = random.Random(7)
        with running("redis_server") as server:
            for step in 1, 2, 3, 7, 50, 1000, 10**6:
                with connect(server) as client:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    at = 0
                    while at < len(requests):
                        size = rng.randint(1, step)
                        client.sendall(requests[at:at + size])
                        at += size
                    self.assertEqual(receive_exactly(client, len(replies)), replies)

    def test_what_is_wrong_is_said_and_ends_the_connection(self):
        with running("redis_server") as server:
            for request in (b"*x\r\n", b"*1\r\n:1\r\n", b"*1\r\n$-5\r\n", b"*1\r\n$99999999999\r\n", b"*9999999\r\n",
                            b"*1\r\n$3\r\nabcde\r\n", b"x" * 70000, b"*" + b"1" * 50):
                with connect(server) as client, contextlib.suppress(ConnectionResetError):
                    client.sendall(request)
                    self.assertTrue(receive_all(client).startswith(b"-ERR Protocol error"), request)

    def test_noise(self):
        rng = random.Random(3)
        with running("redis_server") as server:
            for _ in range(200):
                noise = bytes(rng.choice(b"*$\r\n0123 GETSETkv-\0\xff") for _ in range(rng.randrange(1, 200)))
                with connect(server) as client, contextlib.suppress(ConnectionError):
                    client.sendall(noise)
                    client.shutdown(socket.SHUT_WR)
                    receive_all(client)
            with connect(server) as client:
                self.expect(client, "PING", b"+PONG\r\n")

    def test_who_does_not_read_its_replies_waits(self):
        with running("redis_server") as server, connect(server) as client:
            value = b"v" * (1 << 20)
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n" % (len(value), value))
            self.assertEqual(receive_exactly(client, 5), b"+OK\r\n")
            client.sendall(b"GET k\r\n" * 1000)
            with connect(server) as other:
                for _ in range(100):
                    self.expect(other, "PING", b"+PONG\r\n")
            self.assertLess(resident(server), MEMORY)
            reply = b"$%d\r\n%s\r\n" % (len(value), value)
            for _ in range(1000):
                self.assertEqual(receive_exactly(client, len(reply)), reply)

    @unittest.skipUnless(shutil.which("redis-cli"), "redis-cli is not installed")
    def test_redis_cli(self):
        with running("redis_server") as server:
            done = subprocess.run(["redis-cli", "-p", str(server.port)], input="set name ouro\nget name\nincr n\n",
                                  stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True)
            self.assertEqual(done.stdout.split(), ["OK", "ouro", "1"])

    @unittest.skipUnless(shutil.which("redis-benchmark"), "redis-benchmark is not installed")
    def test_redis_benchmark(self):
        with running("redis_server", "--workers", 2) as server:
            done = subprocess.run(["redis-benchmark", "-p", str(server.port), "-n", "20000", "-P", "16", "-q", "-t",
                                   "ping,set,get,incr,mset"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, timeout=PATIENCE, check=True)
            self.assertIn("GET:", done.stdout)
            self.assertNotIn("rror", done.stdout)


class HttpTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        root = Path(cls.folder.name) / "root"
        (root / "sub").mkdir(parents=True)
        (root / "index.html").write_text("<p>home</p>\n")
        (root / "sub" / "a b.txt").write_text("a b\n")
        cls.big = random.Random(5).randbytes(5_000_000)
        (root / "big.bin").write_bytes(cls.big)
        (Path(cls.folder.name) / "secret").write_text("secret")
        (root / "link").symlink_to("../secret")
        cls.root = root

    def server(self, *arguments):
        return running("http_server", "--root", self.root, *arguments)

    def exchange(self, server, data):
        """Sends it, with an end, and gives all that comes."""
        with connect(server) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return receive_all(client)

    def ask(self, server, target, method="GET", more=""):
        request = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()
        head, _, body = self.exchange(server, request).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:]), body

    def test_files(self):
        for workers in 1, 4:
            with self.subTest(workers=workers), self.server("--workers", workers) as server:
                status, headers, body = self.ask(server, "/")
                self.assertEqual((status, body), (200, b"<p>home</p>\n"))
                self.assertEqual(headers["Content-Type"], "text/html; charset=utf-8")
                self.assertEqual(self.ask(server, "/sub/a%20b.txt?x=1")[2], b"a b\n")
                self.assertEqual(self.ask(server, "/big.bin")[2], self.big)
                status, headers, body = self.ask(server, "/big.bin", "HEAD")
                self.assertEqual((status, headers["Content-Length"], body), (200, str(len(self.big)), b""))

    def test_nothing_outside_is_opened(self):
        with self.server() as server:
            for target in ("/../secret", "/%2e%2e/secret", "/sub/../../secret", "/link", "//etc/passwd", "/sub",
                           "/missing", "/sub/%00", "/%zz", "/%2"):
                status, _, body = self.ask(server, target)
                self.assertIn(status, (400, 404), target)
                self.assertNotIn(b"secret", body)

    def test_pipelined_requests_are_answered_in_order(self):
        targets = ["/plaintext", "/", "/sub/a%20b.txt", "/plaintext", "/missing"] * 20
        expected = {"/plaintext": b"Hello, World!", "/": b"<p>home</p>\n", "/sub/a%20b.txt": b"a b\n",
                    "/missing": b"Not Found\n"}
        with self.server("--workers", 2) as server:
            data = b"".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in targets)
            for step in 1, 37, len(data):
                with connect(server) as client:
                    for at in range(0, len(data), step):
                        client.sendall(data[at:at + step])
                    answers = client.makefile("rb")
                    for target in targets:
                        head = b""
                        while not head.endswith(b"\r\n\r\n"):
                            head += answers.readline()
                        size = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                        self.assertEqual(answers.read(size), expected[target])

    def test_what_is_refused(self):
        with self.server() as server:
            for status, request in [
                    (400, b"nonsense\r\n\r\n"), (400, b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
                    (405, b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"),
                    (405, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"),
                    (413, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"),
                    (413, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                     b"10000\r\n" + bytes(65536) + b"\r\n" + (b"10000\r\n" + bytes(65536) + b"\r\n") * 20),
                    (414, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
                    (431, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000),
                    (501, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n")]:
                with connect(server) as client:
                    with contextlib.suppress(ConnectionError):
                        client.sendall(request)
                    answer = b""
                    with contextlib.suppress(ConnectionError):
                        answer = receive_exactly(client, 12)
                    self.assertEqual(answer, b"HTTP/1.1 %d" % status, request[:60])

    def test_connections_are_kept_or_closed_as_asked(self):
        with self.server() as server:
            for keeps, request in [(True, b"GET /plaintext HTTP/1.1\r\nHost: x\r\n\r\n"),
                                   (False, b"GET /plaintext HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
                                   (False, b"GET /plaintext HTTP/1.0\r\n\r\n")]:
                with connect(server) as client:
                    for _ in range(2 if keeps else 1):
                        client.sendall(request)
                        answer = b""
                        while not answer.endswith(b"Hello, World!"):
                            answer += client.recv(1)
                    if not keeps:
                        self.assertIn(b"Connection: close", answer)
                        self.assertEqual(client.recv(1), b"")

    def test_who_does_not_read_makes_nothing_grow(self):
        with self.server() as server, connect(server) as client:
            client.sendall(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
            for _ in range(20):
                self.assertEqual(self.ask(server, "/plaintext")[2], b"Hello, World!")
            self.assertLess(resident(server), MEMORY)
            answers = client.makefile("rb")
            for _ in range(3):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += answers.readline()
                self.assertEqual(answers.read(len(self.big)), self.big)

    def test_who_does_nothing_is_dropped(self):
        with self.server("--patience", 1) as server:
            for beginning in b"", b"GET / HTT":
                with connect(server) as client:
                    client.sendall(beginning)
                    self.assertEqual(receive_all(client), b"")

    @unittest.skipUnless(shutil.which("curl"), "curl is not installed")
    def test_curl(self):
        with self.server() as server:
            url = f"http://127.0.0.1:{server.port}"
            done = subprocess.run(["curl", "-s", "--fail", url + "/", url + "/sub/a%20b.txt", url + "/plaintext"],
                                  stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
            self.assertEqual(done.stdout, b"<p>home</p>\na b\nHello, World!")

    @unittest.skipUnless(shutil.which("wrk"), "wrk is not installed")
    def test_wrk(self):
        with self.server("--workers", 2) as server:
            url = f"http://127.0.0.1:{server.port}/plaintext"
            done = subprocess.run(["wrk", "-c", "64", "-t", "1", "-d", "1s", url], stdout=subprocess.PIPE, text=True,
                                  timeout=PATIENCE, check=True)
            self.assertIn("requests in", done.stdout)
            self.assertNotIn("Socket errors", done.stdout)
            self.assertNotIn("Non-2xx", done.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=Path, required=True, help="where the programs are")
    parser.add_argument("--any-memory", action="store_true", help="the servers may need what they need")
    options, rest = parser.parse_known_args()
    SERVERS = options.servers.resolve()
    if options.any_memory:
        MEMORY = sys.maxsize
    unittest.main(argv=[sys.argv[0], *rest])

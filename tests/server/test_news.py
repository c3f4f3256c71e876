"""Whoever waits for news is woken by them, and the event loop once for many."""

import asyncio
import os
import random
import sys
import threading
import time

from ellm.server.news import Bell, News


def test_what_is_rung_together_wakes_the_loop_once(monkeypatch):
    async def run():
        bell, wakes, read = Bell(), [], os.eventfd_read
        monkeypatch.setattr(os, "eventfd_read", lambda counter: (wakes.append(counter), read(counter)))
        for number in range(1, 4):
            news = [News(bell) for _ in range(16)]
            for one in news:
                one.ring()
            await asyncio.wait_for(asyncio.gather(*(one.wait() for one in news)), 10)
            assert len(wakes) == number

    asyncio.run(run())


def test_no_ring_of_any_thread_is_lost():
    rounds, waiters = 300, 8

    async def wait(news, heard):
        for _ in range(rounds):
            await asyncio.wait_for(news.wait(), 10)
            heard.release()

    def ring(news, heard, seed):
        pause = random.Random(seed)
        for _ in range(rounds):
            news.ring()
            heard.acquire()
            for _ in range(pause.randrange(200)):
                pass

    async def run():
        bell = Bell()
        pairs = [(News(bell), threading.Semaphore(0)) for _ in range(waiters)]
        threads = [threading.Thread(target=ring, args=(*pair, seed)) for seed, pair in enumerate(pairs)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(wait(*pair) for pair in pairs))
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])

    asyncio.run(run())


def test_a_loop_that_is_closed_is_not_woken():
    async def made():
        return News(Bell())

    asyncio.run(made()).ring()


def test_who_rings_keeps_the_interpreter():
    """Else an engine waits for the loop before its next step."""
    rounds, heard, kept = 100, [], []

    def ring(news):
        for number in range(rounds):
            while len(heard) < number:
                time.sleep(0.001)
            news.ring()
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass
            kept.append(len(heard) == number)

    async def run():
        news = News(Bell())
        thread = threading.Thread(target=ring, args=(news,))
        thread.start()
        for number in range(rounds):
            await asyncio.wait_for(news.wait(), 10)
            heard.append(number)
        await asyncio.to_thread(thread.join)

    before = sys.getswitchinterval()
    sys.setswitchinterval(10)  # it changes hands where it is given up
    try:
        asyncio.run(run())
    finally:
        sys.setswitchinterval(before)
    assert all(kept)

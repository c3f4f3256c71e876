"""Whoever waits for news is woken by them, and the event loop once for many."""

import asyncio
import random
import threading

from ellm.server.news import Bell, News


def test_what_is_rung_together_wakes_the_loop_once(monkeypatch):
    async def run():
        loop, bell, wakes = asyncio.get_running_loop(), Bell(), []
        schedule = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda call: (wakes.append(call), schedule(call)))
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

"""Embeds images over HTTP; images that arrive together are embedded together.

pip install fastapi uvicorn
MODEL=model.onnx uvicorn app:app
curl --data-binary @photo.jpg http://localhost:8000/embed
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import numpy as np
from fastapi import FastAPI, HTTPException, Request

from export.runtime import Embedder
from zoo import DataError
from zoo.images import require_pixels

LARGEST_BODY = 20 << 20  # bytes
LARGEST_BATCH, WAIT = 16, 0.005  # images, and seconds that the first of them waits for others
WAITING = 256  # images at most; beyond, callers are told to come back


class Batcher:
    """Collects images that arrive within a few milliseconds, and embeds them in one call on another thread."""

    def __init__(self, embed: Embedder) -> None:
        self.embed = embed
        self.queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue(WAITING)
        self.batches: list[int] = []  # how many images each of the last ones had

    async def vector(self, pixels: np.ndarray) -> np.ndarray:
        """Return the vector of an image, float32 ``(dim,)``.

        Raises:
            asyncio.QueueFull: too many images are waiting.
        """
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((pixels, answer))
        return await answer

    async def work(self) -> None:
        """Embed what arrives, until cancelled."""
        while True:
            batch = [await self.queue.get()]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT):
                    while len(batch) < LARGEST_BATCH:
                        batch.append(await self.queue.get())
            batch.sort(key=lambda item: item[0].shape)  # images of one size share an inference
            self.batches = [*self.batches[-99:], len(batch)]
            try:
                rows = await asyncio.to_thread(self.embed, [pixels for pixels, _ in batch], LARGEST_BATCH)
            except Exception as error:  # told to those who asked; the others go on
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), row in zip(batch, rows, strict=True):
                if not answer.done():  # whoever asked may have gone
                    answer.set_result(row)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the model when the server starts."""
    app.state.batcher = Batcher(Embedder(os.environ["MODEL"]))
    worker = asyncio.create_task(app.state.batcher.work())
    yield
    worker.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
async def embed(request: Request) -> dict[str, list[float]]:
    """Embed the image file that is the body."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, f"The image has more than {LARGEST_BODY} bytes.")
    try:
        pixels = await asyncio.to_thread(require_pixels, bytes(body), "in the body")
        vector = await app.state.batcher.vector(pixels)
    except DataError as error:
        raise HTTPException(400, str(error)) from error
    except asyncio.QueueFull as error:
        raise HTTPException(503, "Too many images are waiting.", {"Retry-After": "1"}) from error
    return {"vector": vector.tolist()}

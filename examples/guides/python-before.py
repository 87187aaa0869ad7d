"""A post office: whoever connects as /ann may send notes to /bob. PORT says where it listens; SIGTERM ends it."""
import asyncio
import json
import os
import signal

import websockets

from src.monitoring.resilient_websocket import ResilientWebSocketManager


async def main():
    manager = ResilientWebSocketManager(enable_deduplication=False)
    sockets = {}

    async def serve(websocket):
        name = websocket.path.strip("/")
        await manager.register_connection(websocket)
        sockets[name] = websocket
        try:
            async for data in websocket:
                note = json.loads(data)
                receiver = sockets.get(note["to"])
                if receiver is None:
                    await manager.send(websocket, {"from": "post", "text": f"nobody is called {note['to']}"})
                else:
                    await manager.send(receiver, {"from": name, "text": note["text"]}, critical=True)
        finally:
            await manager.unregister_connection(websocket)

    await manager.start_background_tasks()
    stop = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set_result, None)
    async with websockets.serve(serve, "127.0.0.1", int(os.environ.get("PORT", "8080"))) as server:
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await stop
        stats = await manager.graceful_shutdown(timeout=10)
    print(f"{stats['pending_messages_dropped']} notes were not delivered")


asyncio.run(main())

"""`trading.bus` as an AsyncAPI 3 document, made from the same contracts and the same topology. Pure."""

from __future__ import annotations

import re
from importlib.metadata import version

from common.contract_notes import CONTRACTS, WORDS, Contract
from common.topology import EXCHANGE, QUEUE_LOG, QueueSpec, TopologyLimits, describe_topology
from ops.contracts_doc_schema import Schema, header_schema, message_schema, type_of

ASYNCAPI = "3.0.0"
BINDING = "0.3.0"
"""Of the AMQP 0-9-1 bindings."""

_RULE = (
    "Arrival order is not promised, delivery is at least once: keep the highest `rev` per key (`symbol`, `time`), "
    "and one signal per `signalId`. "
    "Numbers are decimals, digit by digit as stored: do not read them as binary floats. Fields may be added later."
)
_LOG = (
    "A RabbitMQ stream queue with every persistent message: consume it with `x-stream-offset` (first, last, next, an "
    "offset, a time or an age such as 1h), a prefetch count and acks. It keeps {age} or {size} bytes by default, "
    "whichever is less; both are settings."
)


def describe_bus() -> Schema:
    """The whole document."""
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": "trading-bus", "version": version("trading-bus"), "description": _RULE},
        "defaultContentType": "application/json",
        "servers": {"broker": _server()},
        "channels": {**{type_of(contract): _channel(contract) for contract in CONTRACTS}, QUEUE_LOG: _log_channel()},
        "operations": {
            **{f"send.{type_of(contract)}": _send(contract) for contract in CONTRACTS},
            "replay": {
                "action": "send",
                "channel": _ref("channels", QUEUE_LOG),
                "summary": "Give a late consumer what was published before it came",
            },
        },
        "components": {
            "messages": {type_of(contract): _message(contract) for contract in CONTRACTS},
            "schemas": {type_of(contract): _plain(message_schema(contract)) for contract in CONTRACTS},
        },
    }


def _ref(*path: str) -> Schema:
    return {"$ref": "#/" + "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)}


def _plain(schema: Schema) -> Schema:
    """A schema as a component: AsyncAPI's own dialect is a superset of draft-07."""
    return {name: value for name, value in schema.items() if not name.startswith("$")}


def _server() -> Schema:
    return {
        "host": "{host}:{port}",
        "protocol": "amqp",
        "protocolVersion": "0-9-1",
        "description": "RabbitMQ 4; amqps where the broker has a certificate.",
        "variables": {"host": {"default": "localhost"}, "port": {"default": "5672"}},
    }


def _channel(contract: Contract) -> Schema:
    words = re.findall(r"{(\w+)}", contract.key)
    channel: Schema = {
        "address": contract.key,
        "title": contract.title,
        "description": f"{contract.meaning}.",
        "messages": {type_of(contract): _ref("components", "messages", type_of(contract))},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": contract.exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": BINDING,
            }
        },
    }
    if words:
        channel["parameters"] = {word: {"description": f"{WORDS[word].meaning}."} for word in words}
    return channel


def _send(contract: Contract) -> Schema:
    operation: Schema = {
        "action": "send",
        "channel": _ref("channels", type_of(contract)),
        "summary": contract.meaning,
        "messages": [_ref("channels", type_of(contract), "messages", type_of(contract))],
        "bindings": {
            "amqp": {"deliveryMode": 2 if contract.persistent else 1, "timestamp": True, "bindingVersion": BINDING}
        },
    }
    if not contract.persistent:
        operation["description"] = "Transient: not stored by the broker and not in the log."
    return operation


def _message(contract: Contract) -> Schema:
    properties: Schema = {
        "content_type": "application/json",
        "type": type_of(contract),
        "app_id": contract.app_id,
        "message_id": contract.message_id,
        "timestamp": "when its row was committed, else when it was sent; whole seconds, UTC",
    }
    return {
        "name": type_of(contract),
        "title": contract.title,
        "contentType": "application/json",
        "headers": header_schema(contract),
        "payload": _ref("components", "schemas", type_of(contract)),
        "bindings": {"amqp": {"messageType": type_of(contract), "bindingVersion": BINDING}},
        "x-amqp-properties": properties,
    }


def _log_channel() -> Schema:
    limits = TopologyLimits()
    return {
        "address": QUEUE_LOG,
        "title": "Replay log",
        "description": _LOG.format(age=limits.log_age_max, size=limits.log_bytes_max),
        "messages": {
            type_of(contract): _ref("components", "messages", type_of(contract))
            for contract in CONTRACTS
            if contract.persistent and contract.exchange == EXCHANGE
        },
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": QUEUE_LOG, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": BINDING,
            }
        },
        "x-amqp-arguments": dict(_log_queue(limits).arguments),
    }


def _log_queue(limits: TopologyLimits) -> QueueSpec:
    (queue,) = (queue for queue in describe_topology(limits).queues if queue.name == QUEUE_LOG)
    return queue

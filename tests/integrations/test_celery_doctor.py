"""doctor on RabbitMQ: the rights that rpc:// takes."""

from __future__ import annotations

import shlex
import sys
import types

import pytest

from tests.cli.test_doctor import findings
from tests.integrations.rabbitmq import RabbitMQ
from tests.tools.celery_app import close_app, make_app

pytestmark = pytest.mark.rabbitmq


def test_a_login_that_may_have_no_reply_queue(rabbitmq_node: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    vhost = rabbitmq_node.new_vhost()
    rabbitmq_node.ctl("add_user", "doctor", "secret")
    rabbitmq_node.ctl("set_permissions", "-p", vhost, "doctor", "^celery", ".*", "^celery")
    url = rabbitmq_node.url(vhost=vhost).replace("guest:guest", "doctor:secret")
    app = make_app(broker_url=url, result_backend="rpc://")
    project = types.ModuleType("rabbitmq_project")
    project.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, project.__name__, project)
    try:
        severity, message, fix = findings("-A", project.__name__)["reply queue"]
        assert severity == "error"
        assert "ACCESS_REFUSED" in message
        assert "secret" not in message + fix
        words = shlex.split(fix.replace("CONFIGURE WRITE READ,", r"'^(asyncresult\.reply\.|celery)' .* '.*'"))
        rabbitmq_node.ctl(*words[1 : words.index("where")])  # the fix
        assert findings("-A", project.__name__)["reply queue"][0] == "note"
    finally:
        close_app(app)
        rabbitmq_node.ctl("delete_user", "doctor")

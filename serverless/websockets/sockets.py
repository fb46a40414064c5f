"""The `@connections` API: text to an open socket, and its end."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from channels.exceptions import ChannelFull, MessageTooLarge

from serverless import aws
from serverless.websockets.calls import Timeouts, is_throttled, pause
from serverless.websockets.errors import WebsocketsError

#: API Gateway's limit for one message. It travels in frames of 32 KB, which API Gateway cuts and joins by itself.
MOST_BYTES = 128 << 10


class MessageTooLargeError(WebsocketsError, MessageTooLarge):  # type: ignore[misc]
    """What a consumer sends is more than API Gateway passes on; Channels' MessageTooLarge."""

    def __init__(self, connection_id: str, message_bytes: int) -> None:
        super().__init__(
            f"connection {connection_id}: a message of {message_bytes} bytes is larger than the {MOST_BYTES} that API "
            "Gateway passes on. Send a key, and let the client fetch the rest by HTTP."
        )
        self.connection_id = connection_id
        self.message_bytes = message_bytes


class Sockets:
    """endpoint_url: where `@connections` is, such as https://ID.execute-api.REGION.amazonaws.com/STAGE.

    Blocks; safe from many threads and in forked children, since it holds no connection.
    """

    def __init__(self, endpoint_url: str, timeouts: Timeouts, connections: int) -> None:
        self.endpoint_url = endpoint_url
        self._timeouts = timeouts
        self._connections = connections

    def client(self) -> Any:
        return self._timeouts.client(
            "apigatewaymanagementapi",
            endpoint_url=self.endpoint_url,
            connections=self._connections,
            # boto3 also repeats a request whose answer was lost: the client would see the message twice.
            repeats_itself=False,
        )

    def post(self, connection_id: str, text: str) -> bool:
        """Send text to one socket; False if it is gone, or not open yet.

        Raises MessageTooLargeError, ChannelFull if API Gateway throttles or the client reads too slowly, and the errors
        of boto3. It is repeated only where API Gateway certainly did not send it.
        """
        data = text.encode()
        if len(data) > MOST_BYTES:
            raise MessageTooLargeError(connection_id, len(data))
        for attempt in range(self._timeouts.retries + 1):
            try:
                self.client().post_to_connection(ConnectionId=connection_id, Data=data)
            except aws.ERRORS as error:
                aws.renew_credentials(error)
                if _is_gone(error):
                    return False
                may_pass = is_throttled(error) or aws.is_passing(error)
                if attempt == self._timeouts.retries or not (may_pass and aws.certainly_refused(error)):
                    if is_throttled(error):
                        raise ChannelFull(connection_id) from error
                    raise
                pause(attempt)
            else:
                return True
        raise AssertionError("the last attempt returns or raises")

    def close(self, connection_id: str) -> None:
        """End one socket; its `$disconnect` event follows. One that is gone already is no error."""
        try:
            self.client().delete_connection(ConnectionId=connection_id)
        except ClientError as error:
            aws.renew_credentials(error)
            if not _is_gone(error):
                raise


def _is_gone(error: BaseException) -> bool:
    if not isinstance(error, ClientError):
        return False
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == 410 or error.response.get("Error", {}).get("Code") == "GoneException"

"""One schedule group of EventBridge Scheduler: all that Cloudqueue creates is in one, and it touches no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from serverless import aws

if TYPE_CHECKING:
    from mypy_boto3_scheduler import EventBridgeSchedulerClient

#: As many as ListSchedules gives at most.
_PAGE = 100

_Answer = TypeVar("_Answer")
#: Makes one request, when it may be made.
Call = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True)
class Summary:
    """What a list tells of a schedule. is_touched: somebody has changed or disabled it since it was created."""

    name: str
    is_touched: bool


def code_of(error: ClientError) -> str:
    """AWS's word for what went wrong."""
    return error.response.get("Error", {}).get("Code", "")


def _at_once(request: Callable[[], _Answer]) -> _Answer:
    return request()


class Group:
    """name: of the group. call: how requests are made, such as a Pace's."""

    def __init__(self, name: str, call: Call = _at_once) -> None:
        self.name = name
        self._call = call

    def __repr__(self) -> str:
        return f"Group({self.name!r})"

    @property
    def client(self) -> EventBridgeSchedulerClient:
        return aws.client("scheduler")

    def at(self, call: Call) -> Group:
        """The same group, asked in that way."""
        return Group(self.name, call)

    def ensure(self) -> None:
        """Create it where it is missing."""
        try:
            self._call(lambda: self.client.get_schedule_group(Name=self.name))
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            try:
                self._call(lambda: self.client.create_schedule_group(Name=self.name))
            except ClientError as conflict:
                # Another one was faster.
                if code_of(conflict) != "ConflictException":
                    raise

    def summaries(self, prefix: str = "") -> Iterator[Summary]:
        """What it holds, a page of a hundred at a time."""
        asked: dict[str, Any] = {"GroupName": self.name, "MaxResults": _PAGE}
        if prefix:
            asked["NamePrefix"] = prefix
        while True:
            # The lambda is called before `asked` changes.
            page = self._call(lambda: self.client.list_schedules(**asked))
            for found in page["Schedules"]:
                is_touched = found["LastModificationDate"] != found["CreationDate"] or found["State"] == "DISABLED"
                yield Summary(found["Name"], is_touched)
            if not page.get("NextToken"):
                return
            asked["NextToken"] = page["NextToken"]

    def find(self, name: str) -> dict[str, Any] | None:
        """All of one schedule, as GetSchedule tells it; None if there is none."""
        try:
            found: dict[str, Any] = self._call(lambda: self.client.get_schedule(GroupName=self.name, Name=name))
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return None
            raise
        return {key: _utc(value) for key, value in found.items()}

    def create(self, request: dict[str, Any]) -> bool:
        """Create one; False if there is one of that name already."""
        try:
            self._call(lambda: self.client.create_schedule(GroupName=self.name, **request))
        except ClientError as error:
            if code_of(error) == "ConflictException":
                return False
            raise
        return True

    def update(self, request: dict[str, Any]) -> bool:
        """Set all of one anew; False if another one does so at this moment, or has deleted it."""
        try:
            self._call(lambda: self.client.update_schedule(GroupName=self.name, **request))
        except ClientError as error:
            if code_of(error) in ("ConflictException", "ResourceNotFoundException"):
                return False
            raise
        return True

    def delete(self, name: str) -> bool:
        """Delete one; False if it is gone already."""
        try:
            self._call(lambda: self.client.delete_schedule(GroupName=self.name, Name=name))
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return False
            raise
        return True


def _utc(value: Any) -> Any:
    """botocore gives times in the machine's own zone."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value

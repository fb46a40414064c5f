"""Objects in S3: presigned uploads from a browser, range reads, streams, deletion by prefix. No Django."""

from serverless.objects.bucket import Bucket, ObjectInfo, ObjectMissingError, PresignedPost

__all__ = ["Bucket", "ObjectInfo", "ObjectMissingError", "PresignedPost"]

"""What is said to a vision-language model: endpoint, images, messages, and what can go wrong in asking."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from grape_reward.errors import RewardError
from grape_reward.files import read_bounded

BASE_URL, MODEL, API_KEY = "GRAPE_VLM_BASE_URL", "GRAPE_VLM_MODEL", "GRAPE_VLM_API_KEY"
MAX_IMAGE_BYTES = 20 << 20
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg"}


class VlmError(RewardError):
    """A vision-language model that could not be asked, or whose answer cannot be used."""


class VlmConfigError(VlmError):
    """A missing or wrong environment variable; the text names it."""


class ImageError(VlmError):
    """An image that cannot be sent; the text begins with its file."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint. ``base_url``: up to and without ``/chat/completions``. ``key`` is shown
    nowhere: not in the object's text, not in errors, the cache or a transcript."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            port = parts.port
        except ValueError:
            raise VlmConfigError(f"{BASE_URL}: not an address") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise VlmConfigError(f"{BASE_URL}: not an http or https address, expected like https://host/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise VlmConfigError(f"{BASE_URL}: holds a user, password, query or fragment; the key goes into {API_KEY}")
        if not self.model:
            raise VlmConfigError(f"{MODEL} is not set: the model's name at {self.host}")
        if not self.key and not self.loopback:
            raise VlmConfigError(f"{API_KEY} is not set: {self.host} is not this machine")
        if not self.key.isascii() or any(character.isspace() for character in self.key):
            raise VlmConfigError(f"{API_KEY} holds white space or characters other than ASCII")

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Endpoint:
        """The endpoint that ``GRAPE_VLM_BASE_URL``, ``_MODEL`` and ``_API_KEY`` name; a server on this machine needs
        no key. Raises VlmConfigError naming the variable that is missing or wrong."""
        base_url = environment.get(BASE_URL, "").strip().rstrip("/")
        if not base_url:
            raise VlmConfigError(f"{BASE_URL} is not set: address of an OpenAI-compatible server, like https://host/v1")
        return Endpoint(base_url, environment.get(MODEL, "").strip(), environment.get(API_KEY, "").strip())

    @property
    def host(self) -> str:
        """Host and port, as a person would name them."""
        return urlsplit(self.base_url).netloc

    @property
    def loopback(self) -> bool:
        return urlsplit(self.base_url).hostname in _LOOPBACK

    @property
    def unencrypted(self) -> bool:
        """Whether what is sent can be read on the way."""
        return urlsplit(self.base_url).scheme == "http" and not self.loopback

    def without_key(self, text: str) -> str:
        """``text`` with the key taken out: servers quote it in errors. Placeholders such as "none" are no secret."""
        return text.replace(self.key, "[key]") if len(self.key) >= 8 else text


@dataclass(frozen=True)
class Image:
    """An encoded picture: ``media_type`` image/png or image/jpeg, ``width`` and ``height`` in pixels."""

    data: bytes = field(repr=False)
    media_type: str
    width: int
    height: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def data_url(self) -> str:
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


def read_image(path: Path) -> Image:
    """A PNG or JPEG file as it is on disk, checked by its contents, not its name.

    Raises ImageError naming a file that is absent, neither of the two, damaged or over 20 MiB."""
    from PIL import Image as Pillow

    data = read_bounded(path, MAX_IMAGE_BYTES, ImageError)
    try:
        with Pillow.open(io.BytesIO(data), formats=list(_FORMATS)) as picture:
            picture.load()
            kind, (width, height) = str(picture.format), picture.size
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ImageError(f"{path}: not a whole PNG or JPEG image ({type(error).__name__})") from None
    return Image(data, _FORMATS[kind], width, height)


@dataclass(frozen=True)
class Message:
    """One turn: ``role`` system, user or assistant, its text, and the images shown with it."""

    role: str
    text: str
    images: tuple[Image, ...] = ()

    def to_wire(self) -> dict[str, object]:
        """As the chat completions interface has it."""
        if not self.images:
            return {"role": self.role, "content": self.text}
        pictures = [{"type": "image_url", "image_url": {"url": image.data_url}} for image in self.images]
        return {"role": self.role, "content": [{"type": "text", "text": self.text}, *pictures]}

    def to_record(self) -> dict[str, object]:
        """For hashes and transcripts: images by their hash."""
        images = [
            {"sha256": image.sha256, "media_type": image.media_type, "width": image.width, "height": image.height}
            for image in self.images
        ]
        return {"role": self.role, "text": self.text, **({"images": images} if images else {})}

import re

from grape_reward import version


def test_the_version_tells_the_release_and_the_sources():
    told = version.code_version()
    assert re.fullmatch(re.escape(version.RELEASE) + r"\+[0-9a-f]{12}", told) and told == version.code_version()
    folder = version.Path(version.__file__).parent
    assert all(list(folder.glob(pattern)) for pattern in version._SOURCES)

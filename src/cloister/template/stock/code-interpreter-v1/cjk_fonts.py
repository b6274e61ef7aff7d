"""The template's part of matplotlib's search for fonts: Chinese, Japanese and Korean text is drawn whatever family was asked for.

``matplotlib.patch`` makes the installed matplotlib call it, as ``matplotlib._cjk_fonts``. It must not import matplotlib, which imports it.
"""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["named_before", "of_character", "stand_in", "with_cjk"]

_SANS = "Noto Sans CJK JP"
"""The one face of the installed collections that matplotlib reads; the others have the same characters."""
_SERIF = "Noto Serif CJK JP"
_SANS_NAMES = """
    SimHei, Microsoft YaHei, Microsoft YaHei UI, Microsoft JhengHei, Microsoft JhengHei UI, DengXian, YouYuan, STHeiti, STXihei,
    Heiti SC, Heiti TC, PingFang SC, PingFang TC, PingFang HK, Hiragino Sans GB, Hiragino Sans CNS, LiHei Pro, WenQuanYi Micro Hei,
    WenQuanYi Zen Hei, WenQuanYi Micro Hei Mono, WenQuanYi Zen Hei Mono, WenQuanYi Zen Hei Sharp, Source Han Sans, Source Han Sans CN,
    Source Han Sans SC, Source Han Sans TC, Source Han Sans HK, Source Han Sans JP, Source Han Sans KR, Source Han Sans K,
    Noto Sans CJK, Noto Sans CJK SC, Noto Sans CJK TC, Noto Sans CJK HK, Noto Sans CJK KR, Noto Sans SC, Noto Sans TC, Noto Sans HK,
    Noto Sans JP, Noto Sans KR, Noto Sans Mono CJK SC, Noto Sans Mono CJK TC, Noto Sans Mono CJK HK, Noto Sans Mono CJK JP,
    Noto Sans Mono CJK KR, Arial Unicode MS, Droid Sans Fallback, Alibaba PuHuiTi, HarmonyOS Sans SC, LXGW WenKai, Sarasa Gothic SC,
    MS Gothic, MS PGothic, MS UI Gothic, Meiryo, Meiryo UI, Yu Gothic, Yu Gothic UI, YuGothic, Osaka, Hiragino Sans,
    Hiragino Kaku Gothic Pro, Hiragino Kaku Gothic ProN, Hiragino Maru Gothic Pro, Hiragino Maru Gothic ProN, TakaoGothic, TakaoPGothic,
    TakaoExGothic, VL Gothic, VL PGothic, IPAGothic, IPAPGothic, IPAexGothic, M PLUS 1p, Malgun Gothic, Apple Gothic, AppleGothic,
    Apple SD Gothic Neo, NanumGothic, Nanum Gothic, NanumBarunGothic, NanumGothicCoding, NanumSquare, D2Coding, Dotum, DotumChe, Gulim,
    GulimChe, UnDotum, Baekmuk Gulim, 黑体, 微软雅黑, 微軟正黑體, 等线, 幼圆, 苹方, 思源黑体, 文泉驿微米黑, 文泉驿正黑, メイリオ,
    游ゴシック, 맑은 고딕, 나눔고딕, 굴림, 돋움
"""
_SERIF_NAMES = """
    SimSun, NSimSun, SimSun-ExtB, FangSong, FangSong_GB2312, KaiTi, KaiTi_GB2312, LiSu, STSong, STZhongsong, STFangsong, STKaiti,
    Songti SC, Songti TC, Kaiti SC, Kaiti TC, PMingLiU, MingLiU, MingLiU_HKSCS, LiSong Pro, BiauKai, DFKai-SB, AR PL UMing CN,
    AR PL UKai CN, Source Han Serif, Source Han Serif CN, Source Han Serif SC, Source Han Serif TC, Source Han Serif JP,
    Source Han Serif KR, Noto Serif CJK, Noto Serif CJK SC, Noto Serif CJK TC, Noto Serif CJK HK, Noto Serif CJK KR, Noto Serif SC,
    Noto Serif TC, Noto Serif JP, Noto Serif KR, MS Mincho, MS PMincho, Yu Mincho, YuMincho, Hiragino Mincho Pro, Hiragino Mincho ProN,
    IPAMincho, IPAPMincho, IPAexMincho, TakaoMincho, TakaoPMincho, Batang, BatangChe, Gungsuh, AppleMyungjo, NanumMyeongjo,
    Nanum Myeongjo, UnBatang, 宋体, 新宋体, 仿宋, 楷体, 华文宋体, 思源宋体, 游明朝, 바탕, 나눔명조, 궁서
"""


def _key(name: str) -> str:
    return "".join(name.split()).lower()


_STAND_INS = {_key(name): font for names, font in ((_SANS_NAMES, _SANS), (_SERIF_NAMES, _SERIF)) for name in names.split(",")}
_GENERIC = ("serif", "sans-serif", "sans serif", "sans", "cursive", "fantasy", "monospace")
_named: set[str] = set()


def stand_in(manager: Any, properties: Any) -> Any | None:
    """The same properties with the installed family, when the first known one of those that were asked for is a usual CJK family."""
    families: list[str] = []
    for family in properties.get_family():
        families += manager._expand_aliases(family) if family in _GENERIC else [family]  # noqa: SLF001  # this is a part of the library
    font = next((_STAND_INS[_key(name)] for name in families if _key(name) in _STAND_INS), None)
    if font is None:
        return None
    wanted = properties.copy()
    wanted.set_family(font)
    return wanted


def named_before(family: str) -> bool:
    """Whether this was asked for the same family before: what is missing is said once."""
    known = family in _named
    _named.add(family)
    return known


def with_cjk(manager: Any, properties: Any, paths: list[str]) -> list[str]:
    """The font files that a text is drawn with, and the CJK one after them."""
    path = _installed(manager, properties)
    return paths if path is None or path in paths else [*paths, path]


def of_character(manager: Any, properties: Any, character: str) -> str | None:
    """The font file that has this character of a formula, when it is a CJK one."""
    if len(character) != 1 or ord(character) < 0x1100 or unicodedata.east_asian_width(character) not in "WF":
        return None
    return _installed(manager, properties)


def _installed(manager: Any, properties: Any) -> str | None:
    wanted = properties.copy()
    wanted.set_file(None)
    wanted.set_family(_SANS)
    try:
        return str(manager.findfont(wanted, fallback_to_default=False))
    except ValueError:
        return None

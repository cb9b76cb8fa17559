"""What an arm resolves to: the configuration of a training or of a search, or stages."""

from jsonargparse import Namespace

from nastricks.search.recipe import dump_any
from nastricks.stages import Stages

Setting = Namespace | Stages


def text_of(setting: Setting) -> str:
    """All that a trial under this setting depends on, but for its seed."""
    return setting.text if isinstance(setting, Stages) else dump_any(setting)


def shown_config(setting: Setting) -> Namespace:
    """The configuration that speaks for a setting: of stages, the first one's."""
    return setting.stages[0].config() if isinstance(setting, Stages) else setting

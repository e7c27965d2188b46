"""Clients that attack, in simulation: what they do with their data, and what they send."""

from headway.attacks.attack import Attack as Attack
from headway.attacks.attack import AttackView as AttackView
from headway.attacks.attack_plan import AttackPlan as AttackPlan
from headway.attacks.attacked_engine import AttackedEngine as AttackedEngine
from headway.attacks.backdoor_success import success_rate as success_rate
from headway.attacks.colluding import ALIE as ALIE
from headway.attacks.colluding import FallOfEmpires as FallOfEmpires
from headway.attacks.colluding import InnerProduct as InnerProduct
from headway.attacks.colluding import LineSearch as LineSearch
from headway.attacks.colluding import Mimic as Mimic
from headway.attacks.colluding import Sybils as Sybils
from headway.attacks.poisoned_data import Backdoor as Backdoor
from headway.attacks.poisoned_data import LabelFlip as LabelFlip
from headway.attacks.single import GaussianUpdate as GaussianUpdate
from headway.attacks.single import HeavyWeight as HeavyWeight
from headway.attacks.single import NotFinite as NotFinite
from headway.attacks.single import ScaledUpdate as ScaledUpdate
from headway.attacks.single import SignFlip as SignFlip
from headway.attacks.single import ZeroUpdate as ZeroUpdate

"""evalfast.py RUN RECIPE EPISODES TASKS own,e0,row0 [FAMILIES]"""
import sys, os, copy, numpy as np, torch
from pathlib import Path
torch.set_num_threads(1)
from vla_align_ros.training import train as T
from vla_align_ros.training.recipe import load_recipe
from vla_align_ros.training.aids import Aids
from vla_align_ros.training.objective import JointObjective
from vla_align_ros.training.trainee import Trainee
from vla_align_ros.training.base import model_of
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.progress import saved_step
from vla_align_ros.observation.normalise import Normaliser, load_norm_stats
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.tokenizer import PromptTokenizer
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.policy.policy import Policy, AlignmentParts
from vla_align_ros.policy.statistics import no_limits
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.bench import evaluate
from vla_align_ros.bench.so101.bench import So101
from vla_align_ros.bench.so101.shifts import Family, Split
from vla_align_ros.bench.so101.source import draw_arms, open_sources
from vla_align_ros.bench.so101.tasks import Task
from safetensors.torch import load_file
run,rec=Path(sys.argv[1]),Path(sys.argv[2]); N=int(sys.argv[3]); tasks=sys.argv[4].split(','); toks=sys.argv[5].split(',')
fams=sys.argv[6].split(',') if len(sys.argv)>6 else []
r=load_recipe(rec); config=model_of(r,rec); a=config.architecture
fam=[Family(n) for n in r.source['families']]
s=open_sources(r.seed,r.source['robots'],1,{Task[k.upper()]:v for k,v in r.source['tasks'].items()},fam,a.cameras)
m=Pi0(a)
bank=TokenBank(len(s.training.robots),a.peft_num_tokens,a.action_expert.width,s.training.shifts.values)
aids=Aids(m,s.training.labels.num_points); obj=JointObjective(m,bank,aids,r)
t=load_file(run/'policy.safetensors'); own=obj.state_dict(); obj.load_state_dict({k:t.get(k,v) for k,v in own.items()})
print('step',saved_step(run/'policy.safetensors'))
m=m.eval()
from vla_align_ros.observation.normalise import *
stats=load_norm_stats(run/'norm_stats.json')
st,ac=(Normaliser(stats[n],config.normalisation) for n in ('state','actions'))
robot=Robot(config,st,ac,PromptTokenizer(run/'tokenizer.json',a),"",())
fe=FeatureExtractor(a.alignment.features)
off=bank.offsets().detach()
p=Policy(m,robot,AlignmentParts(fe,off,no_limits(0.)),"",torch.device('cpu'))
arms=list(s.training.arms.values())
def show(name,robots,tokens):
    for tk in tasks:
        b=So101((Task[tk.upper()],))
        out={}
        for w,x in tokens.items():
            with torch.no_grad(): e=evaluate.finished(p,b,robots,x,7)
            out[w]=round(float(e.succeeded.mean()),3)
        print(name,tk,out,flush=True)
rng=np.random.default_rng(3)
rows=rng.integers(0,len(arms),N)
def tokset(own):
    d={'own':own,'e0':p.e_0.expand(N,-1,-1),'row0':(p.e_0+off[0]).expand(N,-1,-1)}
    return {k:d[k].detach() for k in toks}
if not fams: show('train',[arms[i] for i in rows],tokset(p.e_0+off[rows]))
from vla_align_ros.bench.so101.source import shift_values
for f in fams:
    em=list(draw_arms(Split.VALIDATION,N,77,[Family(f)]).values())
    show(f,em,tokset(p.e_0+bank.of_shifts(shift_values(em))))
